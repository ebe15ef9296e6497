"""The whole round with pika's blocking connection. Arguments: the nodes' URLs (comma separated), a name."""

import sys

import pika
from pika.exceptions import AMQPConnectionError, UnroutableError

urls, name = sys.argv[1].split(","), sys.argv[2]
dead = name + ".dead"
persistent = pika.BasicProperties(delivery_mode=2, content_type="text/plain")


def say(line):
    print(line, flush=True)


def connect(urls):
    """A connection to the first node that answers."""
    connection = pika.BlockingConnection([pika.URLParameters(url) for url in urls])
    channel = connection.channel()
    channel.confirm_delivery()
    return connection, channel


def publish(channel, text):
    # Returns when it is confirmed, raises when it was returned or refused.
    channel.basic_publish(name, "order.new", text, persistent, mandatory=True)


def take(channel, queue, count, settle):
    """What a consumer gets: (method, properties, text) of `count` messages."""
    taken = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=20):
        if method is None:
            raise TimeoutError("%d of %d messages in %s" % (len(taken), count, queue))
        taken.append((method, properties, body.decode()))
        settle(channel, method)
        if len(taken) == count:
            break
    channel.cancel()
    return taken


def ack(channel, method):
    channel.basic_ack(method.delivery_tag)


near, publisher = connect(urls)
far, consumer = connect(urls[1:])

publisher.exchange_declare(dead, "fanout", durable=True)
publisher.queue_declare(dead, durable=True, arguments={"x-queue-type": "quorum"})
publisher.queue_bind(dead, dead)
publisher.exchange_declare(name, "topic", durable=True)
publisher.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", "x-dead-letter-exchange": dead})
publisher.queue_bind(name, name, "order.*")
assert consumer.queue_declare(name, passive=True).method.message_count == 0
say("declared")

texts = ["order %d" % number for number in range(100)]
for text in texts:
    publish(publisher, text)
say("confirmed 100")

try:
    publisher.basic_publish(name, "nobody.listens", "back", persistent, mandatory=True)
except UnroutableError as error:
    returned = error.messages[0]
    assert returned.body == b"back"
    say("returned %d %s" % (returned.method.reply_code, returned.method.reply_text))

consumer.basic_qos(prefetch_count=10)
assert [text for _, _, text in take(consumer, name, 100, ack)] == texts
say("consumed 100 in order")

publish(publisher, "again")
consumer.basic_qos(prefetch_count=1)
settlements = [
    lambda channel, method: channel.basic_nack(method.delivery_tag, requeue=True),
    lambda channel, method: channel.basic_reject(method.delivery_tag, requeue=False),
]
first, second = take(consumer, name, 2, lambda channel, method: settlements.pop(0)(channel, method))
assert (first[2], first[0].redelivered, second[2], second[0].redelivered) == ("again", False, "again", True)
say("redelivered")

((_, properties, text),) = take(consumer, dead, 1, ack)
assert text == "again"
(death,) = (properties.headers or {}).get("x-death", [{}])
say("dead-lettered %s" % death.get("reason"))

for number in range(20):
    publish(publisher, "before %d" % number)
say("kill 1")
assert sys.stdin.readline() == "done\n"
try:
    publish(publisher, "lost")
    raise AssertionError("confirmed by a dead node")
except AMQPConnectionError:
    near, publisher = connect(urls)
say("reconnected")
for number in range(20):
    publish(publisher, "after %d" % number)
survived = [text for _, _, text in take(publisher, name, 40, ack)]
assert survived == ["before %d" % n for n in range(20)] + ["after %d" % n for n in range(20)]
say("survived 40")

for queue in (name, dead):
    publisher.queue_delete(queue)
    publisher.exchange_delete(queue)
near.close()
far.close()
say("deleted")
