/* A consumer on librabbitmq, as in its examples amqp_consumer.c and amqp_rpc_sendstring_client.c:
 * amqp_consume_message in a loop, amqp_basic_publish for the reply, amqp_basic_ack afterwards.
 *
 * Requests are decoded and replies encoded as by every other contender: base64 of JSON of a Python
 * literal, into a tree of values and back. With BENCH_ONLY_ACK it does nothing but acknowledge, which
 * shows what the broker can do.
 */
#define _GNU_SOURCE
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- bytes that grow */

typedef struct {
    char *data;
    size_t size, room;
} bytes;

static void put(bytes *out, const char *data, size_t size) {
    if (out->size + size > out->room) {
        out->room = (out->size + size) * 2 + 64;
        out->data = realloc(out->data, out->room);
        if (!out->data) abort();
    }
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_char(bytes *out, char each) { put(out, &each, 1); }

/* ---- base64 */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static unsigned char values[256];

static void base64_init(void) {
    memset(values, 255, sizeof values);
    for (int i = 0; i < 64; i++) values[(unsigned char)digits[i]] = (unsigned char)i;
}

static int base64_decode(const unsigned char *data, size_t size, bytes *out) {
    unsigned group = 0;
    int count = 0;
    for (size_t i = 0; i < size && data[i] != '='; i++) {
        unsigned char value = values[data[i]];
        if (value == 255) return 0;
        group = group << 6 | value;
        if (++count == 4) {
            char three[3] = {(char)(group >> 16), (char)(group >> 8), (char)group};
            put(out, three, 3);
            group = 0;
            count = 0;
        }
    }
    if (count >= 2) put_char(out, (char)(group >> (count == 2 ? 4 : 10)));
    if (count == 3) put_char(out, (char)(group >> 2));
    return count != 1;
}

static void base64_encode(const bytes *in, bytes *out) {
    const unsigned char *data = (const unsigned char *)in->data;
    for (size_t i = 0; i < in->size; i += 3) {
        size_t left = in->size - i;
        unsigned group = (unsigned)data[i] << 16;
        if (left > 1) group |= (unsigned)data[i + 1] << 8;
        if (left > 2) group |= data[i + 2];
        char four[4] = {digits[group >> 18], digits[group >> 12 & 63],
                        left > 1 ? digits[group >> 6 & 63] : '=',
                        left > 2 ? digits[group & 63] : '='};
        put(out, four, 4);
    }
}

/* ---- strings with escapes: JSON's, and Python's as far as repr() makes them */

static void put_utf8(bytes *out, unsigned code) {
    if (code < 0x80) {
        put_char(out, (char)code);
    } else if (code < 0x800) {
        put_char(out, (char)(0xC0 | code >> 6));
        put_char(out, (char)(0x80 | (code & 63)));
    } else if (code < 0x10000) {
        put_char(out, (char)(0xE0 | code >> 12));
        put_char(out, (char)(0x80 | (code >> 6 & 63)));
        put_char(out, (char)(0x80 | (code & 63)));
    } else {
        put_char(out, (char)(0xF0 | code >> 18));
        put_char(out, (char)(0x80 | (code >> 12 & 63)));
        put_char(out, (char)(0x80 | (code >> 6 & 63)));
        put_char(out, (char)(0x80 | (code & 63)));
    }
}

static int hex(const char **at, const char *end, int count, unsigned *code) {
    *code = 0;
    for (; count; count--, (*at)++) {
        if (*at >= end) return 0;
        char each = **at;
        unsigned digit;
        if (each >= '0' && each <= '9') digit = (unsigned)(each - '0');
        else if (each >= 'a' && each <= 'f') digit = (unsigned)(each - 'a') + 10;
        else if (each >= 'A' && each <= 'F') digit = (unsigned)(each - 'A') + 10;
        else return 0;
        *code = *code << 4 | digit;
    }
    return 1;
}

static int quoted(const char **at, const char *end, bytes *out) {
    char quote = *(*at)++;
    while (*at < end && **at != quote) {
        const char *start = *at;
        while (*at < end && **at != quote && **at != '\\') (*at)++;
        put(out, start, (size_t)(*at - start));
        if (*at >= end || **at == quote) continue;
        if (++*at >= end) return 0;
        char kind = *(*at)++;
        unsigned code, low;
        switch (kind) {
        case 'n': put_char(out, '\n'); break;
        case 't': put_char(out, '\t'); break;
        case 'r': put_char(out, '\r'); break;
        case 'b': put_char(out, '\b'); break;
        case 'f': put_char(out, '\f'); break;
        case 'x':
            if (!hex(at, end, 2, &code)) return 0;
            put_utf8(out, code);
            break;
        case 'u':
            if (!hex(at, end, 4, &code)) return 0;
            if (code >= 0xD800 && code < 0xDC00 && *at + 6 <= end && (*at)[0] == '\\' && (*at)[1] == 'u') {
                *at += 2;
                if (!hex(at, end, 4, &low)) return 0;
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            }
            put_utf8(out, code);
            break;
        case 'U':
            if (!hex(at, end, 8, &code)) return 0;
            put_utf8(out, code);
            break;
        default: put_char(out, kind);
        }
    }
    if (*at >= end) return 0;
    (*at)++;
    return 1;
}

/* ---- values: a Python literal as a tree, and back */

typedef enum { WORD, TEXT, LIST, DICT } kind;

typedef struct value {
    kind kind;
    bytes text;           /* of a WORD (a number, None, True, False) or a TEXT */
    struct value *first;  /* of a LIST; of a DICT keys and values take turns */
    struct value *next;
} value;

static value *make(kind kind) {
    value *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->kind = kind;
    return made;
}

static void drop(value *each) {
    while (each) {
        value *next = each->next;
        drop(each->first);
        free(each->text.data);
        free(each);
        each = next;
    }
}

static void blank(const char **at, const char *end) {
    while (*at < end && (**at == ' ' || **at == '\n' || **at == '\t')) (*at)++;
}

static value *parse(const char **at, const char *end, int depth) {
    blank(at, end);
    if (*at >= end || depth > 100) return NULL;
    if (**at == '\'' || **at == '"') {
        value *made = make(TEXT);
        if (quoted(at, end, &made->text)) return made;
        drop(made);
        return NULL;
    }
    if (**at == '{' || **at == '[') {
        value *made = make(**at == '{' ? DICT : LIST), **tail = &made->first;
        char close = **at == '{' ? '}' : ']';
        (*at)++;
        for (blank(at, end); *at < end && **at != close; blank(at, end)) {
            value *each = parse(at, end, depth + 1);
            if (!each) break;
            *tail = each;
            tail = &each->next;
            blank(at, end);
            if (made->kind == DICT) {
                if (*at >= end || **at != ':') break;
                (*at)++;
                value *of = parse(at, end, depth + 1);
                if (!of) break;
                *tail = of;
                tail = &of->next;
                blank(at, end);
            }
            if (*at < end && **at == ',') (*at)++;
            else if (*at >= end || **at != close) break;
        }
        if (*at < end && **at == close) {
            (*at)++;
            return made;
        }
        drop(made);
        return NULL;
    }
    const char *start = *at;
    while (*at < end && !strchr(",:]} \n\t", **at)) (*at)++;
    size_t size = (size_t)(*at - start);
    int number = size && strspn(start, "+-.0123456789eE") >= size;
    int word = (size == 4 && (!memcmp(start, "None", 4) || !memcmp(start, "True", 4))) ||
               (size == 5 && !memcmp(start, "False", 5));
    if (!number && !word) return NULL;
    value *made = make(WORD);
    put(&made->text, start, size);
    return made;
}

static void text_of(const bytes *text, bytes *out) {
    char quote = text->size && memchr(text->data, '\'', text->size) && !memchr(text->data, '"', text->size) ? '"' : '\'';
    put_char(out, quote);
    for (size_t i = 0; i < text->size; i++) {
        unsigned char each = (unsigned char)text->data[i];
        if (each == (unsigned char)quote || each == '\\') {
            put_char(out, '\\');
            put_char(out, (char)each);
        } else if (each < 32 || each == 127) {
            char escaped[5];
            const char *known = each == '\n' ? "\\n" : each == '\t' ? "\\t" : each == '\r' ? "\\r" : NULL;
            if (!known) {
                snprintf(escaped, sizeof escaped, "\\x%02x", each);
                known = escaped;
            }
            put(out, known, strlen(known));
        } else {
            put_char(out, (char)each);
        }
    }
    put_char(out, quote);
}

static void write_value(const value *each, bytes *out) {
    if (each->kind == WORD) {
        put(out, each->text.data, each->text.size);
    } else if (each->kind == TEXT) {
        text_of(&each->text, out);
    } else {
        put_char(out, each->kind == DICT ? '{' : '[');
        int number = 0;
        for (const value *item = each->first; item; item = item->next, number++) {
            if (number) put(out, each->kind == DICT && number % 2 ? ": " : ", ", 2);
            write_value(item, out);
        }
        put_char(out, each->kind == DICT ? '}' : ']');
    }
}

/* A JSON string, in ASCII as Python's json writes it. */
static void json_of(const bytes *text, bytes *out) {
    char escaped[16];
    put_char(out, '"');
    for (size_t i = 0; i < text->size; i++) {
        unsigned char each = (unsigned char)text->data[i];
        if (each == '"' || each == '\\') {
            put_char(out, '\\');
            put_char(out, (char)each);
        } else if (each >= 32 && each < 127) {
            put_char(out, (char)each);
        } else if (each < 128) {
            put(out, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", each));
        } else {
            int more = each >= 0xF0 ? 3 : each >= 0xE0 ? 2 : 1;
            unsigned code = each & (0x3Fu >> more);
            for (; more && i + 1 < text->size; more--) code = code << 6 | ((unsigned char)text->data[++i] & 63);
            if (code >= 0x10000) {
                code -= 0x10000;
                put(out, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x\\u%04x",
                                                   0xD800 + (code >> 10), 0xDC00 + (code & 1023)));
            } else {
                put(out, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\u%04x", code));
            }
        }
    }
    put_char(out, '"');
}

/* Take a key and its value out of a DICT; returns the value. */
static value *pop(value *from, const char *key) {
    size_t size = strlen(key);
    for (value **link = &from->first; *link && (*link)->next; link = &(*link)->next->next) {
        value *name = *link, *found = name->next;
        if (name->kind == TEXT && name->text.size == size && !memcmp(name->text.data, key, size)) {
            *link = found->next;
            name->next = found->next = NULL;
            drop(name);
            return found;
        }
    }
    return NULL;
}

/* From a request's body to the reply queue and the reply's body. */
static int answer(const amqp_bytes_t *body, bytes *queue, bytes *reply) {
    bytes json = {0}, literal = {0}, text = {0};
    value *request = NULL, *id = NULL, *key = NULL;
    int done = 0;
    if (base64_decode(body->bytes, body->len, &json) && json.size && json.data[0] == '"') {
        const char *at = json.data;
        if (quoted(&at, json.data + json.size, &literal)) {
            at = literal.data;
            request = parse(&at, literal.data + literal.size, 0);
        }
    }
    if (request && request->kind == DICT) {
        id = pop(request, "message_id");
        key = pop(request, "routing_key");
    }
    if (id && key && key->kind == TEXT) {
        put(queue, key->text.data, key->text.size);
        value name[2] = {{.kind = TEXT, .text = {"echo", 4, 0}}, {.kind = TEXT, .text = {"message_id", 10, 0}}};
        value whole = {.kind = DICT, .first = &name[0]};
        name[0].next = request;
        request->next = &name[1];
        name[1].next = id;
        write_value(&whole, &text);
        request->next = NULL;
        bytes encoded = {0};
        json_of(&text, &encoded);
        base64_encode(&encoded, reply);
        free(encoded.data);
        done = 1;
    }
    drop(request);
    drop(id);
    drop(key);
    free(json.data);
    free(literal.data);
    free(text.data);
    return done;
}

/* ---- the consumer */

static const char *env(const char *name, const char *otherwise) {
    const char *found = getenv(name);
    return found ? found : otherwise;
}

static void check(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) {
        fprintf(stderr, "%s failed: %s\n", what, amqp_error_string2(reply.library_error));
        exit(1);
    }
}

int main(void) {
    base64_init();
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket || amqp_socket_open(socket, env("BENCH_HOST", "127.0.0.1"), atoi(env("BENCH_PORT", "5672")))) {
        fprintf(stderr, "no broker\n");
        return 1;
    }
    check(amqp_login(connection, env("BENCH_VHOST", "/"), 0, AMQP_DEFAULT_FRAME_SIZE, 60,
                     AMQP_SASL_METHOD_PLAIN, env("BENCH_USER", ""), env("BENCH_PASSWORD", "")), "login");
    amqp_channel_open(connection, 1);
    check(amqp_get_rpc_reply(connection), "channel.open");
    amqp_bytes_t queue = amqp_cstring_bytes(env("BENCH_QUEUE", ""));
    amqp_queue_declare(connection, 1, queue, 0, atoi(env("BENCH_DURABLE", "0")), 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "queue.declare");
    amqp_basic_qos(connection, 1, 0, (uint16_t)atoi(env("BENCH_PREFETCH", "200")), 0);
    check(amqp_get_rpc_reply(connection), "basic.qos");
    amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "basic.consume");
    int only_ack = getenv("BENCH_ONLY_ACK") != NULL;
    amqp_basic_properties_t properties = {0};
    properties._flags = AMQP_BASIC_EXPIRATION_FLAG;
    properties.expiration = amqp_cstring_bytes("1000");
    bytes key = {0}, reply = {0};
    for (;;) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        check(amqp_consume_message(connection, &envelope, NULL, 0), "consume");
        if (!only_ack) {
            key.size = reply.size = 0;
            if (answer(&envelope.message.body, &key, &reply)) {
                amqp_bytes_t to = {key.size, key.data}, body = {reply.size, reply.data};
                amqp_basic_publish(connection, 1, amqp_empty_bytes, to, 0, 0, &properties, body);
            }
        }
        amqp_basic_ack(connection, 1, envelope.delivery_tag, 0);
        amqp_destroy_envelope(&envelope);
    }
}
