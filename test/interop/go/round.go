// The whole round with amqp091-go, which leaves reconnecting to its user. Arguments: the nodes' URLs (comma separated), a name.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var quorum = amqp.Table{"x-queue-type": "quorum"}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func expect(ok bool, what ...any) {
	if !ok {
		log.Fatal(what...)
	}
}

// connect opens a connection to the first node that answers, and a channel with confirms.
func connect(urls []string) (*amqp.Connection, *amqp.Channel) {
	for _, url := range urls {
		connection, err := amqp.Dial(url)
		if err != nil {
			continue
		}
		channel := must(connection.Channel())
		check(channel.Confirm(false))
		return connection, channel
	}
	log.Fatal("no node answers")
	return nil, nil
}

func declare(channel *amqp.Channel, name, dead string) {
	check(channel.ExchangeDeclare(dead, "fanout", true, false, false, false, nil))
	must(channel.QueueDeclare(dead, true, false, false, false, quorum))
	check(channel.QueueBind(dead, "", dead, false, nil))
	check(channel.ExchangeDeclare(name, "topic", true, false, false, false, nil))
	arguments := amqp.Table{"x-queue-type": "quorum", "x-dead-letter-exchange": dead}
	must(channel.QueueDeclare(name, true, false, false, false, arguments))
	check(channel.QueueBind(name, "order.*", name, false, nil))
}

// publish sends all texts and waits until all are confirmed.
func publish(channel *amqp.Channel, exchange string, texts ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var pending []*amqp.DeferredConfirmation
	for _, text := range texts {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "text/plain", Body: []byte(text)}
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, exchange, "order.new", true, false, message)
		if err != nil {
			return err
		}
		pending = append(pending, confirmation)
	}
	for _, confirmation := range pending {
		if ok, err := confirmation.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("confirmed: %v, %w", ok, err)
		}
	}
	return nil
}

// take gives what a consumer gets: `count` messages, each settled as it comes.
func take(channel *amqp.Channel, queue string, count int, settle func(int, amqp.Delivery) error) (taken []amqp.Delivery) {
	deliveries := must(channel.Consume(queue, "taker", false, false, false, false, nil))
	for len(taken) < count {
		select {
		case delivery, open := <-deliveries:
			expect(open, "the channel was closed")
			check(settle(len(taken), delivery))
			taken = append(taken, delivery)
		case <-time.After(20 * time.Second):
			log.Fatalf("%d of %d messages in %s", len(taken), count, queue)
		}
	}
	check(channel.Cancel("taker", false))
	return taken
}

func ack(_ int, delivery amqp.Delivery) error { return delivery.Ack(false) }

func numbered(kind string, count int) (texts []string) {
	for number := 0; number < count; number++ {
		texts = append(texts, fmt.Sprintf("%s %d", kind, number))
	}
	return texts
}

func expectTexts(taken []amqp.Delivery, texts []string) {
	for number, delivery := range taken {
		expect(string(delivery.Body) == texts[number], "got ", string(delivery.Body), " instead of ", texts[number])
	}
}

func requeueAndReject(publisher, consumer *amqp.Channel, name, dead string) {
	check(publish(publisher, name, "again"))
	taken := take(consumer, name, 2, func(number int, delivery amqp.Delivery) error {
		if number == 0 {
			return delivery.Nack(false, true)
		}
		return delivery.Reject(false)
	})
	expect(!taken[0].Redelivered && taken[1].Redelivered, "wrong flags")
	fmt.Println("redelivered")
	letter := take(consumer, dead, 1, ack)[0]
	expect(string(letter.Body) == "again", "got ", string(letter.Body))
	var reason any
	if deaths, ok := letter.Headers["x-death"].([]any); ok {
		reason = deaths[0].(amqp.Table)["reason"]
	}
	fmt.Println("dead-lettered", reason)
}

func main() {
	urls, name := strings.Split(os.Args[1], ","), os.Args[2]
	dead := name + ".dead"
	near, publisher := connect(urls)
	far, consumer := connect(urls[1:])
	check(consumer.Qos(10, 0, false))
	declare(publisher, name, dead)
	fmt.Println("declared")

	check(publish(publisher, name, numbered("order", 100)...))
	fmt.Println("confirmed 100")

	returns := publisher.NotifyReturn(make(chan amqp.Return, 1))
	check(publisher.Publish(name, "nobody.listens", true, false, amqp.Publishing{Body: []byte("back")}))
	returned := <-returns
	fmt.Println("returned", returned.ReplyCode, returned.ReplyText)

	expectTexts(take(consumer, name, 100, ack), numbered("order", 100))
	fmt.Println("consumed 100 in order")
	requeueAndReject(publisher, consumer, name, dead)

	closed := near.NotifyClose(make(chan *amqp.Error, 1))
	check(publish(publisher, name, numbered("before", 20)...))
	fmt.Println("kill 1")
	expect(must(bufio.NewReader(os.Stdin).ReadString('\n')) == "done\n", "not killed")
	<-closed
	expect(publish(publisher, name, "lost") != nil, "confirmed by a dead node")
	near, publisher = connect(urls)
	fmt.Println("reconnected")
	check(publish(publisher, name, numbered("after", 20)...))
	expectTexts(take(publisher, name, 40, ack), append(numbered("before", 20), numbered("after", 20)...))
	fmt.Println("survived 40")

	for _, each := range []string{name, dead} {
		must(publisher.QueueDelete(each, false, false, false))
		check(publisher.ExchangeDelete(each, false, false))
	}
	check(near.Close())
	check(far.Close())
	fmt.Println("deleted")
}
