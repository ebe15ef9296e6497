"""The whole round with kombu, which Celery stands on; it goes to the next URL by itself. Arguments: the nodes' URLs, a name."""

import socket
import sys

from kombu import Connection, Consumer, Exchange, Producer, Queue

urls, name = sys.argv[1].split(","), sys.argv[2]
dead = name + ".dead"
retry = {"max_retries": 20, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.5}


def say(line):
    print(line, flush=True)


def connect(urls):
    connection = Connection(";".join(urls), transport_options={"confirm_publish": True}, heartbeat=10)
    connection.ensure_connection(max_retries=5)
    return connection


dead_exchange = Exchange(dead, "fanout", durable=True)
dead_queue = Queue(dead, dead_exchange, queue_arguments={"x-queue-type": "quorum"})
exchange = Exchange(name, "topic", durable=True)
queue = Queue(
    name,
    exchange,
    routing_key="order.*",
    queue_arguments={"x-queue-type": "quorum", "x-dead-letter-exchange": dead},
)


def publish(producer, text, routing_key="order.new", **options):
    # JSON is kombu's own default; with `confirm_publish` this returns when the message is confirmed.
    producer.publish({"text": text}, exchange=exchange, routing_key=routing_key, retry=True, retry_policy=retry, **options)


def take(connection, queue, count, settle, prefetch=10):
    """What a consumer gets, `count` messages, each settled as it comes."""
    taken = []

    def receive(_, message):
        taken.append(message)
        settle(message)

    with Consumer(connection.channel(), [queue], callbacks=[receive], prefetch_count=prefetch, auto_declare=False):
        while len(taken) < count:
            connection.drain_events(timeout=20)
    return taken


def texts(messages):
    return [message.payload["text"] for message in messages]


def ack(message):
    message.ack()


near, far = connect(urls), connect(urls[1:])
channel = near.channel()
for entity in (dead_queue, queue):
    entity(channel).declare()
say("declared")

returned = []
producer = Producer(near, on_return=lambda error, exchange, key, message: returned.append(error))
for number in range(100):
    publish(producer, "order %d" % number)
say("confirmed 100")

publish(producer, "back", "nobody.listens", mandatory=True)
(error,) = returned
say("returned %d %s" % (error.reply_code, error.reply_text))

assert texts(take(far, queue, 100, ack)) == ["order %d" % n for n in range(100)]
say("consumed 100 in order")

publish(producer, "again")
settlements = [lambda message: message.requeue(), lambda message: message.reject()]
first, second = take(far, queue, 2, lambda message: settlements.pop(0)(message), prefetch=1)
assert (first.delivery_info["redelivered"], second.delivery_info["redelivered"]) == (False, True)
say("redelivered")

(letter,) = take(far, dead_queue, 1, ack)
assert letter.payload["text"] == "again"
say("dead-lettered %s" % letter.headers.get("x-death", [{}])[0].get("reason"))

for number in range(20):
    publish(producer, "before %d" % number)
say("kill 1")
assert sys.stdin.readline() == "done\n"
# The first of these finds the connection dead and goes to the next node.
for number in range(20):
    publish(producer, "after %d" % number)
say("reconnected")
near.ensure_connection(max_retries=5)
survived = texts(take(near, queue, 40, ack))
assert survived == ["%s %d" % (when, n) for when in ("before", "after") for n in range(20)]
say("survived 40")

channel = near.channel()
for entity in (queue, dead_queue):
    bound = entity(channel)
    bound.delete()
    bound.exchange.delete()
try:
    near.drain_events(timeout=0.1)
except socket.timeout:
    pass
near.release()
far.release()
say("deleted")
