// The whole round with librabbitmq, which leaves nearly everything to its user. Arguments: the nodes' URLs (comma separated), a name.

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char urls[3][200];
static int node_count;
static char name[256], dead[300];

typedef struct {
  uint64_t tag;
  int redelivered;
  char text[100];
  char reason[100]; // of the first x-death
} message;

static void fail(const char *what) {
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}

static void expect(int ok, const char *what) {
  if (!ok) fail(what);
}

static void expect_reply(amqp_connection_state_t connection, const char *what) {
  if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

// A connection to the first node from `node` on that answers, with one channel in confirm mode.
static amqp_connection_state_t dial(int node) {
  for (; node < node_count; node++) {
    char url[200];
    struct amqp_connection_info info;
    strcpy(url, urls[node]);
    expect(amqp_parse_url(url, &info) == AMQP_STATUS_OK, "URL");
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) {
      amqp_destroy_connection(connection);
      continue;
    }
    amqp_rpc_reply_t reply =
        amqp_login(connection, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password);
    expect(reply.reply_type == AMQP_RESPONSE_NORMAL, "login");
    amqp_channel_open(connection, 1);
    expect_reply(connection, "channel.open");
    amqp_confirm_select(connection, 1);
    expect_reply(connection, "confirm.select");
    return connection;
  }
  fail("no node answers");
  return NULL;
}

static void declare(amqp_connection_state_t connection, const char *queue, const char *type, const char *key,
                    const char *dead_letters) {
  amqp_table_entry_t entries[2];
  entries[0].key = amqp_cstring_bytes("x-queue-type");
  entries[0].value.kind = AMQP_FIELD_KIND_UTF8;
  entries[0].value.value.bytes = amqp_cstring_bytes("quorum");
  if (dead_letters) {
    entries[1].key = amqp_cstring_bytes("x-dead-letter-exchange");
    entries[1].value.kind = AMQP_FIELD_KIND_UTF8;
    entries[1].value.value.bytes = amqp_cstring_bytes(dead_letters);
  }
  amqp_table_t arguments = {dead_letters ? 2 : 1, entries};
  amqp_bytes_t bytes = amqp_cstring_bytes(queue);
  amqp_exchange_declare(connection, 1, bytes, amqp_cstring_bytes(type), 0, 1, 0, 0, amqp_empty_table);
  expect_reply(connection, "exchange.declare");
  amqp_queue_declare(connection, 1, bytes, 0, 1, 0, 0, arguments);
  expect_reply(connection, "queue.declare");
  amqp_queue_bind(connection, 1, bytes, bytes, amqp_cstring_bytes(key), amqp_empty_table);
  expect_reply(connection, "queue.bind");
}

static int send_text(amqp_connection_state_t connection, const char *key, const char *text) {
  amqp_basic_properties_t properties = {0};
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  properties.content_type = amqp_cstring_bytes("text/plain");
  return amqp_basic_publish(connection, 1, amqp_cstring_bytes(name), amqp_cstring_bytes(key), 1, 0, &properties,
                            amqp_cstring_bytes(text));
}

// Waits until `count` messages are confirmed; 0 when the connection is lost. What is returned before is printed.
static int confirmed(amqp_connection_state_t connection, int count) {
  static uint64_t last = 0; // Of the connection that `count` begins with.
  uint64_t until = last + count;
  while (last < until) {
    amqp_frame_t frame;
    struct timeval limit = {20, 0};
    if (amqp_simple_wait_frame_noblock(connection, &frame, &limit) != AMQP_STATUS_OK) {
      last = 0;
      return 0;
    }
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    if (frame.payload.method.id == AMQP_BASIC_ACK_METHOD) {
      last = ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
    } else if (frame.payload.method.id == AMQP_BASIC_RETURN_METHOD) {
      amqp_basic_return_t *returned = frame.payload.method.decoded;
      printf("returned %d %.*s\n", returned->reply_code, (int)returned->reply_text.len,
             (char *)returned->reply_text.bytes);
      amqp_message_t message;
      amqp_rpc_reply_t reply = amqp_read_message(connection, 1, &message, 0);
      expect(reply.reply_type == AMQP_RESPONSE_NORMAL, "the returned message");
      amqp_destroy_message(&message);
    } else {
      fail("a method that is no confirm");
    }
  }
  return 1;
}

static int publish(amqp_connection_state_t connection, const char *kind, int count) {
  for (int number = 0; number < count; number++) {
    char text[100];
    snprintf(text, sizeof text, "%s %d", kind, number);
    if (send_text(connection, "order.new", text) != AMQP_STATUS_OK) return 0;
  }
  return confirmed(connection, count);
}

static amqp_table_entry_t *find(amqp_table_t *table, const char *key) {
  for (int i = 0; i < table->num_entries; i++) {
    amqp_bytes_t found = table->entries[i].key;
    if (found.len == strlen(key) && memcmp(found.bytes, key, found.len) == 0) return &table->entries[i];
  }
  return NULL;
}

static void first_death(amqp_table_t *headers, char *reason) {
  strcpy(reason, "nothing");
  amqp_table_entry_t *deaths = find(headers, "x-death");
  if (!deaths || deaths->value.kind != AMQP_FIELD_KIND_ARRAY) return;
  amqp_table_t *death = &deaths->value.value.array.entries[0].value.table;
  amqp_table_entry_t *entry = find(death, "reason");
  if (entry) snprintf(reason, 100, "%.*s", (int)entry->value.value.bytes.len, (char *)entry->value.value.bytes.bytes);
}

static void consume(amqp_connection_state_t connection, const char *queue) {
  amqp_basic_qos(connection, 1, 0, 10, 0);
  expect_reply(connection, "basic.qos");
  amqp_basic_consume(connection, 1, amqp_cstring_bytes(queue), amqp_cstring_bytes("taker"), 0, 0, 0, amqp_empty_table);
  expect_reply(connection, "basic.consume");
}

static message next(amqp_connection_state_t connection) {
  amqp_envelope_t envelope;
  struct timeval limit = {20, 0};
  amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &limit, 0);
  expect(reply.reply_type == AMQP_RESPONSE_NORMAL, "a message");
  message taken = {envelope.delivery_tag, envelope.redelivered, "", "nothing"};
  snprintf(taken.text, sizeof taken.text, "%.*s", (int)envelope.message.body.len, (char *)envelope.message.body.bytes);
  if (envelope.message.properties._flags & AMQP_BASIC_HEADERS_FLAG)
    first_death(&envelope.message.properties.headers, taken.reason);
  amqp_destroy_envelope(&envelope);
  return taken;
}

static void cancel(amqp_connection_state_t connection) {
  amqp_basic_cancel(connection, 1, amqp_cstring_bytes("taker"));
  expect_reply(connection, "basic.cancel");
}

static void take_in_order(amqp_connection_state_t connection, const char *kind, int count) {
  for (int number = 0; number < count; number++) {
    char text[100];
    snprintf(text, sizeof text, "%s %d", kind, number);
    message taken = next(connection);
    expect(strcmp(taken.text, text) == 0, taken.text);
    amqp_basic_ack(connection, 1, taken.tag, 0);
  }
}

static void requeue_and_reject(amqp_connection_state_t publisher, amqp_connection_state_t consumer) {
  expect(publish(publisher, "again", 1), "confirm");
  consume(consumer, name);
  message first = next(consumer);
  amqp_basic_nack(consumer, 1, first.tag, 0, 1);
  message second = next(consumer);
  amqp_basic_reject(consumer, 1, second.tag, 0);
  expect(!first.redelivered && second.redelivered, "flags");
  printf("redelivered\n");
  cancel(consumer);
  consume(consumer, dead);
  message letter = next(consumer);
  expect(strcmp(letter.text, "again 0") == 0, letter.text);
  amqp_basic_ack(consumer, 1, letter.tag, 0);
  printf("dead-lettered %s\n", letter.reason);
  cancel(consumer);
}

static void hang_up(amqp_connection_state_t connection) {
  amqp_rpc_reply_t reply = amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
  expect(reply.reply_type == AMQP_RESPONSE_NORMAL, "connection.close");
  amqp_destroy_connection(connection);
}

int main(int count, char **arguments) {
  expect(count == 3, "two arguments");
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (char *url = strtok(arguments[1], ","); url && node_count < 3; url = strtok(NULL, ","))
    snprintf(urls[node_count++], sizeof urls[0], "%s", url);
  snprintf(name, sizeof name, "%s", arguments[2]);
  snprintf(dead, sizeof dead, "%s.dead", name);

  amqp_connection_state_t publisher = dial(0), consumer = dial(1);
  declare(publisher, dead, "fanout", "", NULL);
  declare(publisher, name, "topic", "order.*", dead);
  printf("declared\n");
  expect(publish(publisher, "order", 100), "confirms");
  printf("confirmed 100\n");
  expect(send_text(publisher, "nobody.listens", "back") == AMQP_STATUS_OK && confirmed(publisher, 1), "confirm");
  consume(consumer, name);
  take_in_order(consumer, "order", 100);
  printf("consumed 100 in order\n");
  cancel(consumer);
  requeue_and_reject(publisher, consumer);

  expect(publish(publisher, "before", 20), "confirms");
  char answer[10];
  printf("kill 1\n");
  expect(fgets(answer, sizeof answer, stdin) && strcmp(answer, "done\n") == 0, "kill");
  expect(!publish(publisher, "lost", 1), "a dead node's silence");
  amqp_destroy_connection(publisher);
  publisher = dial(0);
  printf("reconnected\n");
  expect(publish(publisher, "after", 20), "confirms");
  consume(publisher, name);
  take_in_order(publisher, "before", 20);
  take_in_order(publisher, "after", 20);
  printf("survived 40\n");
  cancel(publisher);

  const char *both[] = {name, dead};
  for (int i = 0; i < 2; i++) {
    amqp_queue_delete(publisher, 1, amqp_cstring_bytes(both[i]), 0, 0);
    expect_reply(publisher, "queue.delete");
    amqp_exchange_delete(publisher, 1, amqp_cstring_bytes(both[i]), 0);
    expect_reply(publisher, "exchange.delete");
  }
  hang_up(publisher);
  hang_up(consumer);
  printf("deleted\n");
  return 0;
}
