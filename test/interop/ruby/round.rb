# The whole round with bunny, which comes back by itself, at the next host, with all that it had. Arguments: the nodes' URLs, a name.

require 'bunny'
require 'timeout'
require 'uri'

$stdout.sync = true
urls = ARGV[0].split(',').map { |url| URI(url) }
name = ARGV[1]
dead = "#{name}.dead"

def fail_with(what)
  raise what.to_s
end

def connect(urls)
  addresses = urls.map { |url| "#{url.host}:#{url.port}" }
  connection = Bunny.new(
    addresses: addresses, user: urls[0].user, pass: urls[0].password, hosts_shuffle_strategy: ->(all) { all },
    network_recovery_interval: 0.5, recover_from_connection_close: true, logger: Logger.new(File::NULL)
  )
  connection.start
end

def publish(exchange, *texts)
  texts.each { |text| exchange.publish(text, routing_key: 'order.new', persistent: true, content_type: 'text/plain') }
  exchange.channel.wait_for_confirms or fail_with 'not confirmed'
end

# What a consumer gets: `count` messages, each settled as it comes.
def take(channel, queue, count)
  taken = Queue.new
  consumer = channel.queue(queue, passive: true).subscribe(manual_ack: true) do |delivery, properties, text|
    yield channel, delivery
    taken << [delivery, properties, text]
  end
  all = Timeout.timeout(20) { Array.new(count) { taken.pop } }
  consumer.cancel
  all
end

ack = ->(channel, delivery) { channel.ack(delivery.delivery_tag) }
numbered = ->(kind, count) { Array.new(count) { |number| "#{kind} #{number}" } }

near = connect(urls)
far = connect(urls.rotate)
publisher = near.create_channel
publisher.confirm_select
consumer = far.create_channel
consumer.prefetch(10)

dead_exchange = publisher.fanout(dead, durable: true)
dead_queue = publisher.queue(dead, durable: true, arguments: { 'x-queue-type' => 'quorum' }).bind(dead_exchange)
exchange = publisher.topic(name, durable: true)
arguments = { 'x-queue-type' => 'quorum', 'x-dead-letter-exchange' => dead }
queue = publisher.queue(name, durable: true, arguments: arguments).bind(exchange, routing_key: 'order.*')
puts 'declared'

publish(exchange, *numbered.call('order', 100))
puts 'confirmed 100'

returned = Queue.new
exchange.on_return { |info, _, _| returned << info }
exchange.publish('back', routing_key: 'nobody.listens', mandatory: true)
info = Timeout.timeout(20) { returned.pop }
puts "returned #{info.reply_code} #{info.reply_text}"

texts = take(consumer, name, 100, &ack).map(&:last)
texts == numbered.call('order', 100) or fail_with texts
puts 'consumed 100 in order'

publish(exchange, 'again')
settlements = [
  ->(channel, delivery) { channel.nack(delivery.delivery_tag, false, true) },
  ->(channel, delivery) { channel.reject(delivery.delivery_tag, false) }
]
first, second = take(consumer, name, 2) { |channel, delivery| settlements.shift.call(channel, delivery) }
[first[0].redelivered?, second[0].redelivered?] == [false, true] or fail_with 'wrong flags'
puts 'redelivered'

letter, = take(consumer, dead, 1, &ack)
letter[2] == 'again' or fail_with letter[2]
puts "dead-lettered #{(letter[1].headers || {}).fetch('x-death', [{}])[0]['reason']}"

# This consumer is of the node that dies: the library makes it anew.
survived = Queue.new
queue.subscribe(manual_ack: true) do |delivery, _, text|
  delivery.channel.ack(delivery.delivery_tag)
  survived << text
end
publish(exchange, *numbered.call('before', 20))
recovered = Queue.new
near.after_recovery_completed { recovered << true }
puts 'kill 1'
$stdin.gets == "done\n" or fail_with 'not killed'
Timeout.timeout(20) { recovered.pop }
puts 'reconnected'
# Bunny 2.19 waits for ever for confirms on a channel that it recovered, whatever the broker; consumers come back well.
fresh = near.create_channel
fresh.confirm_select
publish(fresh.topic(name, durable: true), *numbered.call('after', 20))
distinct = {}
Timeout.timeout(20) { distinct[survived.pop] = true while distinct.size < 40 }
distinct.keys.sort == (numbered.call('before', 20) + numbered.call('after', 20)).sort or fail_with distinct.keys
puts 'survived 40'

[queue, dead_queue, exchange, dead_exchange].each(&:delete)
near.close
far.close
puts 'deleted'
