/*
 * What the coordinator's process tells over HTTP, to Prometheus and to whoever starts and stops it:
 *
 *     /metrics   the cluster's figures (metrics_page.h)
 *     /healthz   200 while the coordinator answers, 503 otherwise
 *     /readyz    200 while every shard is up and has the layout in force, 503 naming what is not
 *
 * libmicrohttpd's threads serve it; for each request they ask the coordinator as dimfitctl does, so
 * that nothing is shared. It only reads, and only GET and HEAD are answered.
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "proto/base.h"

struct http;

/* Listen at tcp://HOST:PORT (HOST an address, PORT * for a free one) for the coordinator at an
 * endpoint, borrowed until http_stop(). CONFIG or IO naming the address. */
dimfit_err http_start(const char *bind, const char *coordinator, struct http **out,
                      struct err_detail *detail) MUST_CHECK;
void http_stop(struct http **http);

/* The port it listens at. */
uint16_t http_port(const struct http *http);

#endif
