/*
 * Saved state in a buffer: an archive (server/archive.h) for tests. Aborts when there is no memory.
 */
#ifndef TESTS_BUF_ARCHIVE_H
#define TESTS_BUF_ARCHIVE_H

#include "server/shard_state.h"
#include "server/table.h"

/* All of a shard's state, as one run of bytes. */
void buf_archive_save(const struct shard *shard, uint32_t parts, struct buf *out);
/* And back: what shard_restore() makes of so many bytes, block by block of `block`. */
dimfit_err buf_archive_restore(const uint8_t *bytes, size_t len, size_t block,
                               const struct shard_options *options, const struct shard_io *io,
                               struct shard **out, struct err_detail *detail);

/* The same of a table alone, rows before the last change among it; `into` has the layout's slots
 * and no rows. */
void buf_archive_save_table(const struct table *table, struct buf *out);
dimfit_err buf_archive_restore_table(const struct buf *saved, struct table *into,
                                     const struct layout *before, struct err_detail *detail);

#endif
