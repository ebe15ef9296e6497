<?php
// The whole round with php-amqplib, which leaves reconnecting to its user. Arguments: the nodes' URLs (comma separated), a name.

require 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPExceptionInterface;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

$urls = array_map('parse_url', explode(',', $argv[1]));
$name = $argv[2];
$dead = "$name.dead";

function say(string $line): void
{
    fwrite(STDOUT, "$line\n");
}

function expect(bool $ok, string $what): void
{
    if (!$ok) {
        throw new RuntimeException($what);
    }
}

/** A connection to the first node that answers, and a channel with confirms. */
function connect(array $urls): array
{
    $hosts = array_map(fn ($url) => [
        'host' => $url['host'], 'port' => $url['port'], 'user' => $url['user'], 'password' => $url['pass'],
    ], $urls);
    $connection = AMQPStreamConnection::create_connection($hosts);
    $channel = $connection->channel();
    $channel->confirm_select();
    $channel->set_nack_handler(fn () => throw new RuntimeException('a nack'));
    return [$connection, $channel];
}

function publish(AMQPChannel $channel, string $exchange, array $texts): void
{
    $properties = ['delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT, 'content_type' => 'text/plain'];
    foreach ($texts as $text) {
        $channel->basic_publish(new AMQPMessage($text, $properties), $exchange, 'order.new', true);
    }
    $channel->wait_for_pending_acks_returns(20);
}

/** What a consumer gets: `$count` messages, each settled as it comes. */
function take(AMQPChannel $channel, string $queue, int $count, callable $settle): array
{
    $taken = [];
    $tag = $channel->basic_consume($queue, callback: function (AMQPMessage $message) use (&$taken, $settle) {
        $settle($message, count($taken));
        $taken[] = $message;
    });
    while (count($taken) < $count) {
        $channel->wait(null, false, 20);
    }
    $channel->basic_cancel($tag);
    return $taken;
}

function numbered(string $kind, int $count): array
{
    return array_map(fn ($number) => "$kind $number", range(0, $count - 1));
}

function expectTexts(array $messages, array $texts): void
{
    $got = array_map(fn ($message) => $message->getBody(), $messages);
    expect($got === $texts, 'got ' . implode(', ', $got));
}

$ack = fn (AMQPMessage $message) => $message->ack();

[$near, $publisher] = connect($urls);
[$far, $consumer] = connect(array_slice($urls, 1));
$consumer->basic_qos(0, 10, false);

$quorum = ['x-queue-type' => 'quorum'];
$publisher->exchange_declare($dead, 'fanout', durable: true, auto_delete: false);
$publisher->queue_declare($dead, durable: true, auto_delete: false, arguments: new AMQPTable($quorum));
$publisher->queue_bind($dead, $dead);
$publisher->exchange_declare($name, 'topic', durable: true, auto_delete: false);
$arguments = new AMQPTable($quorum + ['x-dead-letter-exchange' => $dead]);
$publisher->queue_declare($name, durable: true, auto_delete: false, arguments: $arguments);
$publisher->queue_bind($name, $name, 'order.*');
say('declared');

publish($publisher, $name, numbered('order', 100));
say('confirmed 100');

$returned = null;
$publisher->set_return_listener(function (int $code, string $text) use (&$returned) {
    $returned = "$code $text";
});
$publisher->basic_publish(new AMQPMessage('back'), $name, 'nobody.listens', true);
$publisher->wait_for_pending_acks_returns(20);
say("returned $returned");

expectTexts(take($consumer, $name, 100, $ack), numbered('order', 100));
say('consumed 100 in order');

publish($publisher, $name, ['again']);
$settle = fn (AMQPMessage $message, int $number) => $number === 0 ? $message->nack(true) : $message->reject(false);
[$first, $second] = take($consumer, $name, 2, $settle);
expect(!$first->isRedelivered() && $second->isRedelivered(), 'wrong flags');
say('redelivered');

[$letter] = take($consumer, $dead, 1, $ack);
expectTexts([$letter], ['again']);
$headers = $letter->has('application_headers') ? $letter->get('application_headers')->getNativeData() : [];
say('dead-lettered ' . ($headers['x-death'][0]['reason'] ?? 'nothing'));

publish($publisher, $name, numbered('before', 20));
say('kill 1');
expect(fgets(STDIN) === "done\n", 'not killed');
try {
    publish($publisher, $name, ['lost']);
    throw new RuntimeException('confirmed by a dead node');
} catch (AMQPExceptionInterface) {
    [$near, $publisher] = connect($urls);
}
say('reconnected');
publish($publisher, $name, numbered('after', 20));
expectTexts(take($publisher, $name, 40, $ack), [...numbered('before', 20), ...numbered('after', 20)]);
say('survived 40');

foreach ([$name, $dead] as $each) {
    $publisher->queue_delete($each);
    $publisher->exchange_delete($each);
}
$near->close();
$far->close();
say('deleted');
