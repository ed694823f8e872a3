/* A model server that is never the bottleneck: one thread, epoll, HTTP/1.1 with keep-alive.
 *
 * usage: mock PORT PACE_MS EVENTS
 * Answers a request whose body has "stream":true with EVENTS server-sent events, one every PACE_MS milliseconds
 * (0: all at once), and any other with one JSON document. PORT 0 picks one; the port is printed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MAX_FD 65536
#define BUFFER 65536

typedef struct Client {
    int fd;
    int events_left;
    int length;
    struct Client *next; /* in the list of those that wait for their next event */
    char buffer[BUFFER];
} Client;

static Client *clients[MAX_FD];
static Client *paced;
static int events_per_stream = 100, pace_ms;
static char unary[2048], stream_head[256], event[1024], ending[2048];
static int unary_length, stream_head_length, event_length, ending_length;

static int as_chunk(char *out, const char *data) {
    int length = strlen(data);
    return sprintf(out, "%x\r\n%s\r\n", length, data);
}

static void prepare_answers(void) {
    const char *body =
        "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1741569952,\"model\":\"mock\",\"choices\":"
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello! How can I assist you today? I can help "
        "with writing, code, analysis and more.\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":119,\"completion_tokens\":20,\"total_tokens\":139,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0}},\"service_tier\":\"default\"}";
    unary_length = sprintf(unary,
                           "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\n"
                           "openai-processing-ms: 1\r\ncontent-length: %d\r\n\r\n%s",
                           (int)strlen(body), body);
    stream_head_length = sprintf(stream_head, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                                              "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n");
    event_length = as_chunk(
        event, "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1741569952,\"model\":"
               "\"mock\",\"system_fingerprint\":\"fp_mock\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},"
               "\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    ending_length = as_chunk(ending, "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":"
                                     "1741569952,\"model\":\"mock\",\"choices\":[],\"usage\":{\"prompt_tokens\":119,"
                                     "\"completion_tokens\":98,\"total_tokens\":217}}\n\n");
    ending_length += as_chunk(ending + ending_length, "data: [DONE]\n\n");
    ending_length += sprintf(ending + ending_length, "0\r\n\r\n");
}

/* Send everything, waiting where the socket is full; -1 when the peer is gone. */
static int send_all(int fd, const char *data, int length) {
    int sent = 0;
    while (sent < length) {
        int count = send(fd, data + sent, length - sent, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno != EAGAIN) return -1;
            usleep(50);
            continue;
        }
        sent += count;
    }
    return 0;
}

static void drop(Client *client) {
    for (Client **link = &paced; *link; link = &(*link)->next)
        if (*link == client) {
            *link = client->next;
            break;
        }
    close(client->fd);
    clients[client->fd] = NULL;
    free(client);
}

static int answer(Client *client, int streamed) {
    if (!streamed) return send_all(client->fd, unary, unary_length);
    if (send_all(client->fd, stream_head, stream_head_length)) return -1;
    if (pace_ms == 0) {
        for (int i = 0; i < events_per_stream - 2; i++)
            if (send_all(client->fd, event, event_length)) return -1;
        return send_all(client->fd, ending, ending_length);
    }
    if (send_all(client->fd, event, event_length)) return -1;
    client->events_left = events_per_stream - 2;
    client->next = paced;
    paced = client;
    return 0;
}

/* Answer every whole request in the buffer; -1 when the connection is of no more use. */
static int serve(Client *client) {
    while (client->events_left == 0) {
        char *end = memmem(client->buffer, client->length, "\r\n\r\n", 4);
        if (!end) return 0;
        int head = end - client->buffer + 4;
        *end = 0;
        char *field = strcasestr(client->buffer, "\r\ncontent-length:");
        *end = '\r';
        int total = head + (field ? atoi(field + 17) : 0);
        if (client->length < total) return 0;
        char *body = client->buffer + head;
        int streamed = memmem(body, total - head, "\"stream\":true", 13) || memmem(body, total - head, "\"stream\": true", 14);
        memmove(client->buffer, client->buffer + total, client->length - total);
        client->length -= total;
        if (answer(client, streamed)) return -1;
    }
    return 0;
}

static void tick(void) {
    for (Client **link = &paced; *link;) {
        Client *client = *link;
        int last = client->events_left == 1;
        int failed = last ? send_all(client->fd, ending, ending_length) : send_all(client->fd, event, event_length);
        client->events_left--;
        if (failed || last) {
            *link = client->next;
            client->next = NULL;
            client->events_left = 0;
            if (failed) shutdown(client->fd, SHUT_RDWR);
        } else {
            link = &client->next;
        }
    }
}

static void accept_all(int listener, int poll) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Client *client = calloc(1, sizeof *client);
        client->fd = fd;
        clients[fd] = client;
        struct epoll_event wanted = {EPOLLIN, {.fd = fd}};
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(fd, (void *)&address, size) || listen(fd, 4096) || getsockname(fd, (void *)&address, &size)) {
        perror("mock");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **arguments) {
    if (count != 4) return fprintf(stderr, "usage: mock PORT PACE_MS EVENTS\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    pace_ms = atoi(arguments[2]);
    events_per_stream = atoi(arguments[3]);
    prepare_answers();
    int poll = epoll_create1(0), listener = listen_on(atoi(arguments[1])), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (pace_ms > 0) {
        struct timespec pace = {pace_ms / 1000, (pace_ms % 1000) * 1000000L};
        struct itimerspec every = {pace, pace};
        timerfd_settime(timer, 0, &every, NULL);
    }
    int watched[] = {listener, timer};
    for (int i = 0; i < 2; i++) {
        struct epoll_event wanted = {EPOLLIN, {.fd = watched[i]}};
        epoll_ctl(poll, EPOLL_CTL_ADD, watched[i], &wanted);
    }
    struct epoll_event ready[512];
    for (;;) {
        int n = epoll_wait(poll, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                accept_all(listener, poll);
            } else if (fd == timer) {
                uint64_t times;
                if (read(timer, &times, sizeof times) > 0) tick();
            } else if (clients[fd]) {
                Client *client = clients[fd];
                int got = recv(fd, client->buffer + client->length, BUFFER - client->length, 0);
                if (got < 0 && errno == EAGAIN) continue;
                if (got > 0) client->length += got;
                if (got <= 0 || serve(client)) drop(client);
            }
        }
    }
}
