"""A Celery application as most people write one: a result backend, a task that retries, one that fails, one in a quorum queue."""

import os

from celery import Celery

app = Celery("warren", broker=os.environ["BROKERS"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=100,
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue=os.environ["NAME"],
    task_default_queue_type=os.environ["QUEUE_TYPE"],
    task_default_exchange_type="topic",
    worker_detect_quorum_queues=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    result_expires=60,
)


@app.task
def add(left, right):
    return left + right


@app.task(bind=True, max_retries=3)
def succeeds_at_third(self):
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    return "after %d retries" % self.request.retries


@app.task
def fails():
    raise ValueError("as it should")
