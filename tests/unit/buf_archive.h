/*
 * Saved state in a buffer: an archive (server/archive.h) for tests. Aborts when there is no memory.
 */
#ifndef TESTS_BUF_ARCHIVE_H
#define TESTS_BUF_ARCHIVE_H

#include "server/shard_state.h"

/* All of a shard's state, as one run of bytes. */
void buf_archive_save(const struct shard *shard, uint32_t parts, struct buf *out);
/* And back: what shard_restore() makes of so many bytes, block by block of `block`. */
dimfit_err buf_archive_restore(const uint8_t *bytes, size_t len, size_t block,
                               const struct shard_options *options, const struct shard_io *io,
                               struct shard **out, struct err_detail *detail);

#endif
