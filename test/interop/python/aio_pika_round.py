"""The whole round with aio-pika's robust connection, which comes back by itself with all that it had. Arguments: the nodes' URLs, a name."""

import asyncio
import sys

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import PublishError

urls, name = sys.argv[1].split(","), sys.argv[2]
dead = name + ".dead"


def say(line):
    print(line, flush=True)


def ask(line):
    say(line)
    assert sys.stdin.readline() == "done\n"


def message(text):
    return Message(text.encode(), delivery_mode=DeliveryMode.PERSISTENT, content_type="text/plain")


async def take(queue, count, settle):
    """What a consumer gets, `count` messages, each settled as it comes."""
    taken = []
    async with queue.iterator(timeout=20) as messages:
        async for incoming in messages:
            taken.append(incoming)
            await settle(incoming)
            if len(taken) == count:
                break
    return taken


def texts(messages):
    return [incoming.body.decode() for incoming in messages]


def ack(incoming):
    return incoming.ack()


async def declare(channel):
    dead_exchange = await channel.declare_exchange(dead, ExchangeType.FANOUT, durable=True)
    dead_queue = await channel.declare_queue(dead, durable=True, arguments={"x-queue-type": "quorum"})
    await dead_queue.bind(dead_exchange)
    exchange = await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": dead}
    queue = await channel.declare_queue(name, durable=True, arguments=arguments)
    await queue.bind(exchange, "order.*")
    return exchange, queue


async def round_of(exchange, consumer):
    await asyncio.gather(*(exchange.publish(message("order %d" % n), "order.new") for n in range(100)))
    say("confirmed 100")
    try:
        await exchange.publish(message("back"), "nobody.listens", mandatory=True)
    except PublishError as error:
        delivery = error.message.delivery
        say("returned %d %s" % (delivery.reply_code, delivery.reply_text))

    queue = await consumer.get_queue(name, ensure=False)
    assert texts(await take(queue, 100, ack)) == ["order %d" % n for n in range(100)]
    say("consumed 100 in order")

    await exchange.publish(message("again"), "order.new")
    settlements = [lambda one: one.nack(requeue=True), lambda one: one.reject(requeue=False)]
    first, second = await take(queue, 2, lambda incoming: settlements.pop(0)(incoming))
    assert (first.redelivered, second.redelivered) == (False, True)
    say("redelivered")

    dead_queue = await consumer.get_queue(dead, ensure=False)
    (letter,) = await take(dead_queue, 1, ack)
    assert letter.body == b"again"
    say("dead-lettered %s" % letter.headers.get("x-death", [{}])[0].get("reason"))


async def main():
    near = await aio_pika.connect_robust(urls[0], reconnect_interval=0.2)
    far = await aio_pika.connect_robust(urls[1])
    publisher = await near.channel(on_return_raises=True)
    consumer = await far.channel()
    await consumer.set_qos(prefetch_count=10)
    exchange, queue = await declare(publisher)
    say("declared")
    await round_of(exchange, consumer)

    survived = []
    done = asyncio.Event()

    async def keep(incoming):
        await incoming.ack()
        if incoming.body.decode() not in survived:
            survived.append(incoming.body.decode())
        if len(survived) == 40:
            done.set()

    # This consumer is of the node that dies: the library makes it anew.
    await queue.consume(keep)
    lost, back = asyncio.Event(), asyncio.Event()
    near.close_callbacks.add(lambda *_: lost.set())
    near.reconnect_callbacks.add(lambda *_: back.set())
    for number in range(20):
        await exchange.publish(message("before %d" % number), "order.new")
    ask("kill 1")
    await asyncio.wait_for(lost.wait(), 20)
    ask("start 1")
    await asyncio.wait_for(back.wait(), 20)
    say("reconnected")
    for number in range(20):
        await exchange.publish(message("after %d" % number), "order.new")
    await asyncio.wait_for(done.wait(), 20)
    assert sorted(survived) == sorted("%s %d" % (when, n) for when in ("before", "after") for n in range(20))
    say("survived 40")

    for each in (name, dead):
        await publisher.queue_delete(each)
        await publisher.exchange_delete(each)
    await near.close()
    await far.close()
    say("deleted")


asyncio.run(main())
