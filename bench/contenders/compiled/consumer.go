// A consumer on amqp091-go, as in its own examples: Consume, a range over the deliveries, Ack after the
// reply. Requests are decoded and replies encoded as by every other contender: base64 of JSON of a Python
// literal, into values and back.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

// pair keeps the order of a dict's items, as Python does.
type pair struct {
	key, value any
}

type dict []pair

// word is a number, None, True or False, as it was written.
type word string

var errLiteral = errors.New("not a literal")

type parser struct {
	text string
	at   int
}

func (p *parser) blank() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\n' || p.text[p.at] == '\t') {
		p.at++
	}
}

func (p *parser) next(each byte) bool {
	p.blank()
	if p.at < len(p.text) && p.text[p.at] == each {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) (any, error) {
	p.blank()
	if p.at >= len(p.text) || depth > 100 {
		return nil, errLiteral
	}
	switch p.text[p.at] {
	case '\'', '"':
		return p.quoted()
	case '{':
		p.at++
		made := dict{}
		for !p.next('}') {
			key, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			if !p.next(':') {
				return nil, errLiteral
			}
			value, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			made = append(made, pair{key, value})
			if !p.next(',') && (p.at >= len(p.text) || p.text[p.at] != '}') {
				return nil, errLiteral
			}
		}
		return made, nil
	case '[':
		p.at++
		made := []any{}
		for !p.next(']') {
			value, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			made = append(made, value)
			if !p.next(',') && (p.at >= len(p.text) || p.text[p.at] != ']') {
				return nil, errLiteral
			}
		}
		return made, nil
	}
	start := p.at
	for p.at < len(p.text) && !strings.ContainsRune(",:]} \n\t", rune(p.text[p.at])) {
		p.at++
	}
	found := p.text[start:p.at]
	switch found {
	case "None", "True", "False":
		return word(found), nil
	}
	if _, err := strconv.ParseFloat(found, 64); err != nil {
		return nil, errLiteral
	}
	return word(found), nil
}

func (p *parser) quoted() (any, error) {
	quote := p.text[p.at]
	p.at++
	start := p.at
	// Most strings have no escapes.
	for p.at < len(p.text) && p.text[p.at] != quote && p.text[p.at] != '\\' {
		p.at++
	}
	if p.at < len(p.text) && p.text[p.at] == quote {
		p.at++
		return p.text[start : p.at-1], nil
	}
	var out strings.Builder
	out.WriteString(p.text[start:p.at])
	for p.at < len(p.text) && p.text[p.at] != quote {
		if p.text[p.at] != '\\' {
			out.WriteByte(p.text[p.at])
			p.at++
			continue
		}
		if p.at+1 >= len(p.text) {
			return nil, errLiteral
		}
		kind := p.text[p.at+1]
		p.at += 2
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[kind]
		switch {
		case digits > 0:
			if p.at+digits > len(p.text) {
				return nil, errLiteral
			}
			code, err := strconv.ParseUint(p.text[p.at:p.at+digits], 16, 32)
			if err != nil {
				return nil, err
			}
			p.at += digits
			out.WriteRune(rune(code))
		case kind == 'n':
			out.WriteByte('\n')
		case kind == 't':
			out.WriteByte('\t')
		case kind == 'r':
			out.WriteByte('\r')
		default:
			out.WriteByte(kind)
		}
	}
	if p.at >= len(p.text) {
		return nil, errLiteral
	}
	p.at++
	return out.String(), nil
}

func write(out *strings.Builder, value any) {
	switch each := value.(type) {
	case word:
		out.WriteString(string(each))
	case string:
		writeText(out, each)
	case []any:
		out.WriteByte('[')
		for number, item := range each {
			if number > 0 {
				out.WriteString(", ")
			}
			write(out, item)
		}
		out.WriteByte(']')
	case dict:
		out.WriteByte('{')
		for number, item := range each {
			if number > 0 {
				out.WriteString(", ")
			}
			write(out, item.key)
			out.WriteString(": ")
			write(out, item.value)
		}
		out.WriteByte('}')
	}
}

func writeText(out *strings.Builder, text string) {
	quote := byte('\'')
	if strings.IndexByte(text, '\'') >= 0 && strings.IndexByte(text, '"') < 0 {
		quote = '"'
	}
	out.WriteByte(quote)
	start := 0
	for i := 0; i < len(text); i++ {
		each := text[i]
		if each >= 32 && each != 127 && each != quote && each != '\\' {
			continue
		}
		out.WriteString(text[start:i])
		start = i + 1
		switch each {
		case quote, '\\':
			out.WriteByte('\\')
			out.WriteByte(each)
		case '\n':
			out.WriteString("\\n")
		case '\t':
			out.WriteString("\\t")
		case '\r':
			out.WriteString("\\r")
		default:
			fmt.Fprintf(out, "\\x%02x", each)
		}
	}
	out.WriteString(text[start:])
	out.WriteByte(quote)
}

func answer(body []byte) (string, []byte, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	size, err := base64.StdEncoding.Decode(raw, body)
	if err != nil {
		return "", nil, err
	}
	var literal string
	if err := json.Unmarshal(raw[:size], &literal); err != nil {
		return "", nil, err
	}
	p := parser{text: literal}
	value, err := p.value(0)
	if err != nil {
		return "", nil, err
	}
	request, ok := value.(dict)
	if !ok || !utf8.ValidString(literal) {
		return "", nil, errLiteral
	}
	echo := make(dict, 0, len(request))
	var id any
	var queue string
	for _, item := range request {
		switch item.key {
		case "message_id":
			id = item.value
		case "routing_key":
			queue, _ = item.value.(string)
		default:
			echo = append(echo, item)
		}
	}
	var out strings.Builder
	write(&out, dict{{"echo", echo}, {"message_id", id}})
	text, err := json.Marshal(out.String())
	if err != nil {
		return "", nil, err
	}
	reply := make([]byte, base64.StdEncoding.EncodedLen(len(text)))
	base64.StdEncoding.Encode(reply, text)
	return queue, reply, nil
}

func must(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %s", what, err)
	}
}

func main() {
	address := url.URL{
		Scheme:  "amqp",
		User:    url.UserPassword(os.Getenv("BENCH_USER"), os.Getenv("BENCH_PASSWORD")),
		Host:    os.Getenv("BENCH_HOST") + ":" + os.Getenv("BENCH_PORT"),
		Path:    "/" + os.Getenv("BENCH_VHOST"),
		RawPath: "/" + url.PathEscape(os.Getenv("BENCH_VHOST")),
	}
	connection, err := amqp.Dial(address.String())
	must(err, "dial")
	defer connection.Close()
	channel, err := connection.Channel()
	must(err, "channel")
	queue, err := channel.QueueDeclare(os.Getenv("BENCH_QUEUE"), os.Getenv("BENCH_DURABLE") == "1", false, false, false, nil)
	must(err, "queue")
	prefetch, err := strconv.Atoi(os.Getenv("BENCH_PREFETCH"))
	must(err, "prefetch")
	must(channel.Qos(prefetch, 0, false), "qos")
	deliveries, err := channel.Consume(queue.Name, "", false, false, false, false, nil)
	must(err, "consume")
	for delivery := range deliveries {
		key, reply, err := answer(delivery.Body)
		must(err, "decode")
		message := amqp.Publishing{Body: reply, Expiration: "1000"}
		must(channel.PublishWithContext(context.Background(), "", key, false, false, message), "publish")
		must(delivery.Ack(false), "ack")
	}
}
