#include "server/http.h"

#include "proto/rpc.h"
#include "server/metrics_page.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>

#include <microhttpd.h>

enum {
    HTTP_MAGIC = 0x48545450,
    ASK_MS = 5000, /* for one answer of the coordinator */
    THREADS = 2,   /* a scrape that waits for a silent shard holds up one */
    CONNECTIONS_MAX = 64,
    CONNECTION_MEMORY = 32 << 10,
    CONNECTION_SECONDS = 30,
};

struct http {
    uint32_t magic;
    const char *coordinator;
    struct MHD_Daemon *daemon;
};

/* ---- asking ---------------------------------------------------------------------------------- */

static dimfit_err ask(struct rpc *rpc, const char *command, json_t **out,
                      struct err_detail *detail) {
    struct wire_header header = {.kind = WIRE_ADMIN};
    snprintf(header.name, sizeof header.name, "%s", command);
    struct rpc_reply reply;
    const dimfit_err err = rpc_call(rpc, &header, NULL, 0, ASK_MS, &reply, detail);
    if (err != DIMFIT_OK)
        return err;
    json_error_t error;
    *out = json_loadb((const char *)reply.body, reply.len, 0, &error);
    return *out != NULL
               ? DIMFIT_OK
               : err_set(detail, DIMFIT_ERR_PROTOCOL, "%s: the answer is no JSON", command);
}

/* ---- pages ----------------------------------------------------------------------------------- */

struct page {
    unsigned status;
    const char *type;
    struct buf text;
};

static void say(struct page *page, unsigned status, const char *text) {
    page->status = status;
    page->type = "text/plain; charset=utf-8";
    buf_put(&page->text, text, strlen(text));
    buf_put_u8(&page->text, '\n');
}

static void healthz(struct rpc *rpc, struct page *page) {
    struct err_detail detail = {{0}};
    json_t *status = NULL;
    if (ask(rpc, "status", &status, &detail) == DIMFIT_OK)
        say(page, MHD_HTTP_OK, "ok");
    else
        say(page, MHD_HTTP_SERVICE_UNAVAILABLE, "the coordinator does not answer");
    json_decref(status);
}

/* The first thing that is not as it should be; false when all is well. */
static bool unready(const json_t *status, char *why, size_t cap) {
    const json_t *const shards = json_object_get(status, "shards");
    const json_int_t epoch = json_integer_value(json_object_get(status, "epoch"));
    for (size_t i = 0; i < json_array_size(shards); i++) {
        const json_t *const shard = json_array_get(shards, i);
        const char *const state = json_string_value(json_object_get(shard, "state"));
        const json_int_t has = json_integer_value(json_object_get(shard, "epoch"));
        if (state == NULL || strcmp(state, "up") != 0) {
            snprintf(why, cap, "shard %zu is %s", i, state != NULL ? state : "unknown");
            return true;
        }
        if (has != epoch) {
            snprintf(why, cap,
                     "shard %zu is at epoch %" JSON_INTEGER_FORMAT ", the cluster at "
                     "%" JSON_INTEGER_FORMAT,
                     i, has, epoch);
            return true;
        }
    }
    return false;
}

static void readyz(struct rpc *rpc, struct page *page) {
    struct err_detail detail = {{0}};
    char why[160] = "the coordinator does not answer";
    json_t *status = NULL;
    const bool answered = ask(rpc, "status", &status, &detail) == DIMFIT_OK;
    if (answered && !unready(status, why, sizeof why))
        say(page, MHD_HTTP_OK, "ok");
    else
        say(page, MHD_HTTP_SERVICE_UNAVAILABLE, why);
    json_decref(status);
}

/* What shards don't answer is left out, so that the page still tells that they are down. */
static void metrics(struct rpc *rpc, struct page *page) {
    static const char *const commands[] = {"status", "search status", "shrink status", "stats",
                                           "slots"};
    enum { N = ARRAY_LEN(commands) };
    struct err_detail detail = {{0}};
    json_t *answers[N] = {0};
    const dimfit_err first = ask(rpc, commands[0], &answers[0], &detail);
    for (size_t i = 1; first == DIMFIT_OK && i < N; i++) {
        if (ask(rpc, commands[i], &answers[i], &detail) != DIMFIT_OK)
            answers[i] = NULL;
    }
    if (first != DIMFIT_OK) {
        say(page, MHD_HTTP_SERVICE_UNAVAILABLE, "the coordinator does not answer");
        return;
    }
    page->status = MHD_HTTP_OK;
    page->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_page(
        &(struct metrics_answers){answers[0], answers[3], answers[4], answers[1], answers[2]},
        &page->text);
    for (size_t i = 0; i < N; i++)
        json_decref(answers[i]);
}

static const struct {
    const char *path;
    void (*make)(struct rpc *rpc, struct page *page);
} pages[] = {{"/metrics", metrics}, {"/healthz", healthz}, {"/readyz", readyz}};

static void make_page(const struct http *http, const char *path, struct page *page) {
    struct err_detail detail = {{0}};
    struct rpc *rpc = NULL;
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        if (strcmp(path, pages[i].path) != 0)
            continue;
        if (rpc_open(http->coordinator, &rpc, &detail) != DIMFIT_OK) {
            say(page, MHD_HTTP_SERVICE_UNAVAILABLE, detail.text);
            return;
        }
        pages[i].make(rpc, page);
        rpc_close(&rpc);
        return;
    }
    say(page, MHD_HTTP_NOT_FOUND, "there are /metrics, /healthz and /readyz");
}

/* ---- libmicrohttpd --------------------------------------------------------------------------- */

/* Called by its threads. A request with a body is refused before that is read. */
static enum MHD_Result answer(void *self, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **context) {
    const struct http *const http = self;
    CHECK_OBJ_NOTNULL(http, HTTP_MAGIC);
    struct page page = {0};
    buf_init(&page.text);
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        say(&page, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
    else
        make_page(http, path, &page);
    struct MHD_Response *response = NULL;
    if (buf_status(&page.text) == DIMFIT_OK)
        response = MHD_create_response_from_buffer(page.text.len, page.text.data,
                                                   MHD_RESPMEM_MUST_COPY);
    buf_fini(&page.text);
    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page.type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    const enum MHD_Result result = MHD_queue_response(connection, page.status, response);
    MHD_destroy_response(response);
    return result;
}

/* tcp://HOST:PORT, HOST in brackets for IPv6. */
static dimfit_err resolve(const char *bind, struct addrinfo **out, struct err_detail *detail) {
    char host[256] = "";
    const char *const from = strncmp(bind, "tcp://", 6) == 0 ? bind + 6 : "";
    const char *const colon = strrchr(from, ':');
    if (colon != NULL && (size_t)(colon - from) < sizeof host)
        memcpy(host, from, (size_t)(colon - from));
    const size_t n = strlen(host);
    const bool bracketed = n > 2 && host[0] == '[' && host[n - 1] == ']';
    if (bracketed)
        host[n - 1] = 0;
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    const char *const port = colon == NULL ? "" : strcmp(colon + 1, "*") == 0 ? "0" : colon + 1;
    if (host[0] == 0 || getaddrinfo(host + bracketed, port, &hints, out) != 0)
        return err_set(detail, DIMFIT_ERR_CONFIG,
                       "--http-bind %s is no address such as tcp://127.0.0.1:9770", bind);
    return DIMFIT_OK;
}

dimfit_err http_start(const char *bind, const char *coordinator, struct http **out,
                      struct err_detail *detail) {
    struct addrinfo *address = NULL;
    const dimfit_err err = resolve(bind, &address, detail);
    if (err != DIMFIT_OK)
        return err;
    struct http *const http = calloc(1, sizeof *http);
    if (http == NULL) {
        freeaddrinfo(address);
        return err_set(detail, DIMFIT_ERR_NOMEM, "no memory for --http-bind %s", bind);
    }
    http->magic = HTTP_MAGIC;
    http->coordinator = coordinator;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD;
    if (address->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    errno = 0;
    http->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, answer, http, MHD_OPTION_SOCK_ADDR, address->ai_addr,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)THREADS, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_SECONDS, MHD_OPTION_END);
    freeaddrinfo(address);
    if (http->daemon == NULL) {
        free(http);
        return err_set(detail, DIMFIT_ERR_IO,
                       "cannot listen at %s for HTTP: %s; give --http-bind "
                       "another address",
                       bind, errno != 0 ? strerror(errno) : "no thread");
    }
    *out = http;
    return DIMFIT_OK;
}

void http_stop(struct http **http) {
    if (*http == NULL)
        return;
    CHECK_OBJ_NOTNULL(*http, HTTP_MAGIC);
    MHD_stop_daemon((*http)->daemon);
    (*http)->magic = 0;
    free(*http);
    *http = NULL;
}

uint16_t http_port(const struct http *http) {
    const union MHD_DaemonInfo *const info = MHD_get_daemon_info(http->daemon,
                                                                 MHD_DAEMON_INFO_BIND_PORT);
    return info != NULL ? info->port : 0;
}
