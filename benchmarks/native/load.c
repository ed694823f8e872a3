/* A load generator: HTTP/1.1 with keep-alive, closed loop (RATE 0) or open loop at a fixed rate.
 *
 * usage: load PORT CONNECTIONS SECONDS RATE REQUESTS BODYFILE [Header: value]...
 * In the open loop arrivals are Poisson and latency counts from the time a request was due, so that a server that
 * falls behind cannot hide it. REQUESTS ends the run early when it is not 0. Prints one line of JSON: times in
 * microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 262144
#define MAX_SAMPLES 4000000
#define MAX_DUE 2000000
#define GRACE_SECONDS 3

typedef struct {
    int fd, busy, chunked, ok;
    int length, head;
    long content_length;
    double due, first_byte;
    char *buffer;
} Connection;

static char request[65536];
static int request_length, port;
static double *latency, *first_byte;
static long samples, errors, events, sent;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double *values, double q) {
    return samples ? values[(long)(q * (samples - 1) + 0.5)] * 1e6 : 0;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (void *)&address, sizeof address)) {
        perror("load: connect");
        exit(1);
    }
    return fd;
}

static void watch(int poll, Connection *c) {
    struct epoll_event wanted = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &wanted);
}

static void fire(Connection *c, double due) {
    c->busy = 1;
    c->due = due;
    c->length = c->head = c->chunked = c->ok = 0;
    c->content_length = -1;
    c->first_byte = 0;
    sent++;
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != request_length) errors++;
}

/* Read the head once it is there; 0 while it is not. */
static int read_head(Connection *c) {
    c->buffer[c->length] = 0;
    char *end = strstr(c->buffer, "\r\n\r\n");
    if (!end) return 0;
    c->head = end - c->buffer + 4;
    c->ok = !strncmp(c->buffer + 9, "200", 3);
    *end = 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    *end = '\r';
    if (field) c->content_length = atol(field + 17);
    else c->chunked = 1;
    return 1;
}

static int complete(Connection *c) {
    if (!c->chunked) return c->length >= c->head + c->content_length;
    return c->length - c->head >= 5 && !memcmp(c->buffer + c->length - 5, "0\r\n\r\n", 5);
}

static void note(Connection *c, double at) {
    if (!c->ok) {
        errors++;
        if (errors < 3) fprintf(stderr, "load: unexpected: %.300s\n", c->buffer);
    }
    if (samples < MAX_SAMPLES) {
        latency[samples] = at - c->due;
        first_byte[samples] = (c->first_byte ? c->first_byte : at) - c->due;
        samples++;
    }
    if (c->chunked)
        for (char *p = c->buffer + c->head; (p = memmem(p, c->buffer + c->length - p, "data: ", 6)); p += 6) events++;
}

static void read_request(int count, char **arguments) {
    static char body[32768];
    FILE *file = fopen(arguments[6], "rb");
    if (!file) {
        perror("load: body");
        exit(1);
    }
    int length = fread(body, 1, sizeof body, file);
    fclose(file);
    request_length = sprintf(request, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                                      "Content-Type: application/json\r\nContent-Length: %d\r\n", port, length);
    for (int i = 7; i < count; i++) request_length += sprintf(request + request_length, "%s\r\n", arguments[i]);
    request_length += sprintf(request + request_length, "\r\n");
    memcpy(request + request_length, body, length);
    request_length += length;
}

int main(int count, char **arguments) {
    if (count < 7) return fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE REQUESTS BODYFILE [Header]...\n"), 2;
    port = atoi(arguments[1]);
    int connections = atoi(arguments[2]), poll = epoll_create1(0), in_flight = 0, idle_count = 0;
    double seconds = atof(arguments[3]), rate = atof(arguments[4]);
    long wanted = atol(arguments[5]);
    read_request(count, arguments);
    prctl(PR_SET_TIMERSLACK, 1UL);
    srand48(42);
    latency = malloc(MAX_SAMPLES * sizeof *latency);
    first_byte = malloc(MAX_SAMPLES * sizeof *first_byte);
    double *due = malloc(MAX_DUE * sizeof *due);
    long due_head = 0, due_tail = 0;
    Connection *all = calloc(connections, sizeof *all), **idle = malloc(connections * sizeof *idle);
    for (int i = 0; i < connections; i++) {
        all[i].fd = dial();
        all[i].buffer = malloc(BUFFER);
        watch(poll, &all[i]);
        idle[idle_count++] = &all[i];
    }
    double start = now(), end = start + seconds, next = start, last = start;
    struct epoll_event ready[256];
    for (;;) {
        double t = now();
        int open = t < end && (!wanted || sent < wanted);
        if (rate > 0) {
            while (next <= t && next < end && due_tail < MAX_DUE) {
                due[due_tail++] = next;
                next += -log(1 - drand48()) / rate;
            }
            for (; due_head < due_tail && idle_count; in_flight++) fire(idle[--idle_count], due[due_head++]);
        } else if (open) {
            for (; idle_count; in_flight++) fire(idle[--idle_count], t);
        }
        if (!open && (in_flight == 0 || t > end + GRACE_SECONDS)) break;
        double pause = rate > 0 && next < end ? next - now() : 0.05;
        struct timespec limit = {0, (long)((pause < 0 ? 0 : pause > 0.05 ? 0.05 : pause) * 1e9)};
        int n = epoll_pwait2(poll, ready, 256, &limit, NULL);
        for (int i = 0; i < n; i++) {
            Connection *c = ready[i].data.ptr;
            int got = recv(c->fd, c->buffer + c->length, BUFFER - 1 - c->length, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) { /* the server closed it: an error if it owed an answer */
                close(c->fd);
                c->fd = dial();
                watch(poll, c);
                if (!c->busy) continue;
                errors++;
                in_flight--;
                c->busy = 0;
                idle[idle_count++] = c;
                continue;
            }
            c->length += got;
            if (!c->head && !read_head(c)) continue;
            double at = now();
            if (!c->first_byte && c->length > c->head) c->first_byte = at;
            if (!complete(c)) continue;
            last = at;
            note(c, at);
            in_flight--;
            c->busy = 0;
            if (rate <= 0 && at < end && (!wanted || sent < wanted)) {
                in_flight++;
                fire(c, at);
            } else {
                idle[idle_count++] = c;
            }
        }
    }
    qsort(latency, samples, sizeof *latency, by_value);
    qsort(first_byte, samples, sizeof *first_byte, by_value);
    double took = last - start;
    printf("{\"requests\":%ld,\"errors\":%ld,\"seconds\":%.3f,\"per_second\":%.1f,\"p50\":%.1f,\"p99\":%.1f,"
           "\"first_byte_p50\":%.1f,\"first_byte_p99\":%.1f,\"events\":%ld,\"unanswered\":%ld}\n",
           samples, errors + in_flight, took, took > 0 ? samples / took : 0, percentile(latency, .5), percentile(latency, .99),
           percentile(first_byte, .5), percentile(first_byte, .99), events, (long)in_flight + due_tail - due_head);
    return 0;
}
