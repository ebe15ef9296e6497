// The whole round with the Java client, which comes back by itself, at another address, with all that it had. Arguments: the nodes' URLs, a name.

import com.rabbitmq.client.*;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;

class Round {
  static final Map<String, Object> QUORUM = Map.of("x-queue-type", "quorum");

  interface Settle {
    void settle(Channel channel, Delivery delivery, int number) throws Exception;
  }

  static final Settle ACK = (channel, delivery, number) -> channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);

  final List<URI> urls;
  final String name;
  final String dead;

  Round(String urls, String name) {
    this.urls = Arrays.stream(urls.split(",")).map(URI::create).toList();
    this.name = name;
    this.dead = name + ".dead";
  }

  public static void main(String[] args) throws Exception {
    try {
      new Round(args[0], args[1]).run();
      System.exit(0);
    } catch (Throwable error) {
      error.printStackTrace();
      System.exit(1);
    }
  }

  static void say(String line) {
    System.out.println(line);
  }

  static void expect(boolean ok, Object what) {
    if (!ok) throw new IllegalStateException(String.valueOf(what));
  }

  Connection connect(List<URI> urls) throws Exception {
    var factory = new ConnectionFactory();
    var login = urls.get(0).getUserInfo().split(":");
    factory.setUsername(login[0]);
    factory.setPassword(login[1]);
    factory.setNetworkRecoveryInterval(500);
    return factory.newConnection(urls.stream().map(url -> new Address(url.getHost(), url.getPort())).toList());
  }

  void publish(Channel channel, List<String> texts) throws Exception {
    for (var text : texts)
      channel.basicPublish(name, "order.new", true, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes(text));
    channel.waitForConfirmsOrDie(20_000);
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static String text(Delivery delivery) {
    return new String(delivery.getBody(), StandardCharsets.UTF_8);
  }

  static List<String> numbered(String kind, int count) {
    return IntStream.range(0, count).mapToObj(number -> kind + " " + number).toList();
  }

  static <T> T next(BlockingQueue<T> queue, String what) throws Exception {
    var next = queue.poll(20, TimeUnit.SECONDS);
    expect(next != null, "no " + what);
    return next;
  }

  /** What a consumer gets: `count` messages, each settled as it comes. */
  static List<Delivery> take(Channel channel, String queue, int count, Settle settle) throws Exception {
    var arrived = new LinkedBlockingQueue<Delivery>();
    var tag = channel.basicConsume(queue, false, (consumer, delivery) -> arrived.add(delivery), consumer -> {});
    var taken = new ArrayList<Delivery>();
    while (taken.size() < count) {
      var delivery = next(arrived, "message in " + queue);
      settle.settle(channel, delivery, taken.size());
      taken.add(delivery);
    }
    channel.basicCancel(tag);
    return taken;
  }

  void declare(Channel channel) throws Exception {
    channel.exchangeDeclare(dead, BuiltinExchangeType.FANOUT, true);
    channel.queueDeclare(dead, true, false, false, QUORUM);
    channel.queueBind(dead, dead, "");
    channel.exchangeDeclare(name, BuiltinExchangeType.TOPIC, true);
    channel.queueDeclare(name, true, false, false, Map.of("x-queue-type", "quorum", "x-dead-letter-exchange", dead));
    channel.queueBind(name, name, "order.*");
    say("declared");
  }

  void run() throws Exception {
    var near = connect(urls);
    var far = connect(List.of(urls.stream().filter(url -> url.getPort() != near.getPort()).findFirst().get()));
    var publisher = near.createChannel();
    publisher.confirmSelect();
    var consumer = far.createChannel();
    consumer.basicQos(10);
    declare(publisher);

    publish(publisher, numbered("order", 100));
    say("confirmed 100");

    var returns = new LinkedBlockingQueue<Return>();
    publisher.addReturnListener(returns::add);
    publisher.basicPublish(name, "nobody.listens", true, null, bytes("back"));
    publisher.waitForConfirmsOrDie(20_000);
    var returned = next(returns, "return");
    say("returned " + returned.getReplyCode() + " " + returned.getReplyText());

    var texts = take(consumer, name, 100, ACK).stream().map(Round::text).toList();
    expect(texts.equals(numbered("order", 100)), texts);
    say("consumed 100 in order");
    requeueAndReject(publisher, consumer);
    killAndReconnect(near, publisher);

    for (var each : List.of(name, dead)) {
      publisher.queueDelete(each);
      publisher.exchangeDelete(each);
    }
    near.close();
    far.close();
    say("deleted");
  }

  void requeueAndReject(Channel publisher, Channel consumer) throws Exception {
    publish(publisher, List.of("again"));
    var both = take(consumer, name, 2, (channel, delivery, number) -> {
      var tag = delivery.getEnvelope().getDeliveryTag();
      if (number == 0) channel.basicNack(tag, false, true);
      else channel.basicReject(tag, false);
    });
    expect(!both.get(0).getEnvelope().isRedeliver() && both.get(1).getEnvelope().isRedeliver(), "wrong flags");
    say("redelivered");

    var letter = take(consumer, dead, 1, ACK).get(0);
    expect(text(letter).equals("again"), text(letter));
    var headers = letter.getProperties().getHeaders();
    var deaths = headers == null ? null : (List<?>) headers.get("x-death");
    say("dead-lettered " + (deaths == null ? null : ((Map<?, ?>) deaths.get(0)).get("reason")));
  }

  void killAndReconnect(Connection near, Channel publisher) throws Exception {
    // This consumer is of the node that dies: the library makes it anew.
    var arrived = new LinkedBlockingQueue<String>();
    publisher.basicConsume(name, false, (tag, delivery) -> {
      arrived.add(text(delivery));
      publisher.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
    }, tag -> {});
    publish(publisher, numbered("before", 20));
    var recovered = new CountDownLatch(1);
    ((Recoverable) near).addRecoveryListener(new RecoveryListener() {
      @Override
      public void handleRecovery(Recoverable connection) {
        recovered.countDown();
      }

      @Override
      public void handleRecoveryStarted(Recoverable connection) {}
    });
    // The client chooses among its addresses by chance.
    var node = urls.stream().map(URI::getPort).toList().indexOf(near.getPort()) + 1;
    say("kill " + node);
    expect("done".equals(new Scanner(System.in).nextLine()), "not killed");
    expect(recovered.await(20, TimeUnit.SECONDS), "no recovery");
    say("reconnected");
    publish(publisher, numbered("after", 20));
    var distinct = new TreeSet<String>();
    while (distinct.size() < 40) distinct.add(next(arrived, "message after " + distinct));
    var expected = new TreeSet<>(numbered("before", 20));
    expected.addAll(numbered("after", 20));
    expect(distinct.equals(expected), distinct);
    say("survived 40");
  }
}
