#include "proto/rpc.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <zmq.h>

#include <cmocka.h>

/* A peer that answers one request after another, each in the way its name asks for. */
struct peer {
    void *context, *socket;
    pthread_t thread;
    char endpoint[128];
};

static void send_frames(void *socket, const uint8_t *route, size_t route_len,
                        const struct wire_header *header, const char *const *bodies, int n) {
    uint8_t bytes[WIRE_HEADER_MAX];
    const size_t len = wire_encode(header, bytes);
    zmq_send(socket, route, route_len, ZMQ_SNDMORE);
    zmq_send(socket, bytes, len, n > 0 ? ZMQ_SNDMORE : 0);
    for (int i = 0; i < n; i++)
        zmq_send(socket, bodies[i], strlen(bodies[i]), i + 1 < n ? ZMQ_SNDMORE : 0);
}

static void answer(void *socket, const uint8_t *route, size_t len,
                   const struct wire_header *request) {
    static const char *const bodies[] = {"first", "second"};
    struct wire_header reply = {.kind = request->kind, .reply = true, .request = request->request};
    if (strcmp(request->name, "silence") == 0)
        return;
    if (strcmp(request->name, "late") == 0) { /* an answer to another request comes first */
        reply.request--;
        send_frames(socket, route, len, &reply, bodies + 1, 1);
        reply.request++;
    }
    if (strcmp(request->name, "garbage") == 0) { /* so does a message that is none */
        zmq_send(socket, route, len, ZMQ_SNDMORE);
        zmq_send(socket, "\xff\xff\xff", 3, 0);
        send_frames(socket, route, len, &reply, bodies, 2);
    }
    if (strcmp(request->name, "refuse") == 0)
        reply.status = err_set(&reply.detail, DIMFIT_ERR_BUSY, "not now");
    if (strcmp(request->name, "bare") == 0)
        reply.status = DIMFIT_ERR_LIMIT;
    send_frames(socket, route, len, &reply, bodies, strcmp(request->name, "empty") != 0);
}

static void *serve(void *self) {
    struct peer *const peer = self;
    uint8_t route[256], header[WIRE_HEADER_MAX], body[256];
    for (;;) {
        const int len = zmq_recv(peer->socket, route, sizeof route, 0);
        if (len < 0)
            break;
        const int n = zmq_recv(peer->socket, header, sizeof header, 0);
        int more = 0;
        size_t size = sizeof more;
        for (zmq_getsockopt(peer->socket, ZMQ_RCVMORE, &more, &size); more;
             zmq_getsockopt(peer->socket, ZMQ_RCVMORE, &more, &size))
            zmq_recv(peer->socket, body, sizeof body, 0);
        struct wire_header request;
        if (n > 0 && wire_decode(header, (size_t)n, &request, NULL) == DIMFIT_OK)
            answer(peer->socket, route, (size_t)len, &request);
    }
    zmq_close(peer->socket);
    return NULL;
}

static struct peer peer;

static int set_up(void **state) {
    const int linger = 0;
    size_t len = sizeof peer.endpoint;
    peer.context = zmq_ctx_new();
    peer.socket = zmq_socket(peer.context, ZMQ_ROUTER);
    if (zmq_setsockopt(peer.socket, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_bind(peer.socket, "tcp://127.0.0.1:*") != 0 ||
        zmq_getsockopt(peer.socket, ZMQ_LAST_ENDPOINT, peer.endpoint, &len) != 0)
        return -1;
    return pthread_create(&peer.thread, NULL, serve, &peer);
}

static int tear_down(void **state) {
    zmq_ctx_shutdown(peer.context);
    pthread_join(peer.thread, NULL);
    return zmq_ctx_term(peer.context);
}

static struct rpc *open_rpc(void) {
    struct rpc *rpc;
    assert_int_equal(rpc_open(peer.endpoint, &rpc, NULL), DIMFIT_OK);
    return rpc;
}

static dimfit_err call(struct rpc *rpc, const char *name, int64_t timeout_ms, struct rpc_reply *out,
                       struct err_detail *detail) {
    struct wire_header request = {.kind = WIRE_ADMIN};
    memcpy(request.name, name, strlen(name) + 1);
    return rpc_call(rpc, &request, "body", 4, timeout_ms, out, detail);
}

static void assert_first(const struct rpc_reply *reply) {
    assert_int_equal(reply->len, 5);
    assert_memory_equal(reply->body, "first", 5);
}

static void an_answer_comes_with_its_body(void **state) {
    struct rpc *rpc = open_rpc();
    struct rpc_reply reply;
    assert_int_equal(call(rpc, "plain", 5000, &reply, NULL), DIMFIT_OK);
    assert_first(&reply);
    assert_int_equal(reply.header.kind, WIRE_ADMIN);
    assert_int_equal(call(rpc, "empty", 5000, &reply, NULL), DIMFIT_OK);
    assert_int_equal(reply.len, 0);
    rpc_close(&rpc);
    assert_null(rpc);
}

static void answers_to_other_requests_are_dropped(void **state) {
    struct rpc *rpc = open_rpc();
    struct rpc_reply reply;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(call(rpc, "late", 5000, &reply, NULL), DIMFIT_OK);
        assert_first(&reply);
    }
    rpc_close(&rpc);
}

static void what_is_no_message_is_dropped(void **state) {
    struct rpc *rpc = open_rpc();
    struct rpc_reply reply;
    assert_int_equal(call(rpc, "garbage", 5000, &reply, NULL), DIMFIT_OK);
    assert_first(&reply);
    rpc_close(&rpc);
}

static void a_refusal_is_returned_with_its_reason(void **state) {
    struct rpc *rpc = open_rpc();
    struct rpc_reply reply = {.len = 99};
    struct err_detail detail;
    assert_int_equal(call(rpc, "refuse", 5000, &reply, &detail), DIMFIT_ERR_BUSY);
    assert_string_equal(detail.text, "not now");
    assert_int_equal(call(rpc, "bare", 5000, &reply, &detail), DIMFIT_ERR_LIMIT);
    assert_string_equal(detail.text, err_text(DIMFIT_ERR_LIMIT));
    assert_int_equal(reply.len, 99); /* written on success only */
    rpc_close(&rpc);
}

static void silence_is_unreachable_at_first_and_maybe_later(void **state) {
    struct rpc *rpc = open_rpc();
    struct rpc_reply reply;
    struct err_detail detail;
    assert_int_equal(call(rpc, "silence", 50, &reply, &detail), DIMFIT_ERR_UNREACHABLE);
    assert_non_null(strstr(detail.text, peer.endpoint));
    assert_int_equal(call(rpc, "plain", 5000, &reply, NULL), DIMFIT_OK);
    assert_int_equal(call(rpc, "silence", 50, &reply, &detail), DIMFIT_ERR_MAYBE);
    assert_non_null(strstr(detail.text, peer.endpoint));
    rpc_close(&rpc);
}

static void what_is_no_endpoint_is_refused(void **state) {
    static const char *const bad[] = {"", "nonsense", "tcp://", "tcp://127.0.0.1", "gopher://a:1"};
    struct rpc *rpc = NULL;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err_detail detail;
        assert_int_equal(rpc_open(bad[i], &rpc, &detail), DIMFIT_ERR_INVALID);
        assert_non_null(strstr(detail.text, "tcp://host:port"));
    }
    assert_null(rpc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_comes_with_its_body),
        cmocka_unit_test(answers_to_other_requests_are_dropped),
        cmocka_unit_test(what_is_no_message_is_dropped),
        cmocka_unit_test(a_refusal_is_returned_with_its_reason),
        cmocka_unit_test(silence_is_unreachable_at_first_and_maybe_later),
        cmocka_unit_test(what_is_no_endpoint_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
