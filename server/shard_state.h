/*
 * A shard's state as bytes: saved and restored.
 *
 * What a shard answers is a function of its messages (shard.h); what it has come to by them is in
 * here: rows and how they lie, counters, optimizer state, pending feasigns, sessions with their
 * recorded results, score sums, dense tables, the layout in force, a change that is prepared, and
 * where a search and the last shrink stand. A restored shard answers whatever comes next with the
 * same bits as the one that was saved. Not in here: options, which the restoring process has, and
 * sums over rows under way, which are asked for again. The format has a version.
 *
 * Pure. Saving takes no memory and no lock, so that a forked child may do it: what needs memory is
 * made before, by shard_save_head().
 */
#ifndef SERVER_SHARD_STATE_H
#define SERVER_SHARD_STATE_H

#include "server/archive.h"
#include "server/shard.h"

enum shard_save_parts {
    SHARD_SAVE_UNDO = 1 << 0, /* what the last change is undone by: layout and rows before it */
};

/* Whether the shard can be saved now: BUSY while rows move, a shrink goes on, or rows before a
 * change are on their way to disk. */
dimfit_err shard_save_check(const struct shard *shard, struct err_detail *detail) MUST_CHECK;

/* The small parts, into an empty buf. What undoes the last change is left out where it was lost, or
 * is not asked for: then the restored shard refuses to undo it. */
dimfit_err shard_save_head(const struct shard *shard, uint32_t parts, struct buf *head,
                           struct err_detail *detail) MUST_CHECK;
/* All of it, with the head that was made of the shard as it is. */
void shard_save(const struct shard *shard, const struct buf *head, struct archive_writer *out);

uint64_t shard_rows(const struct shard *shard);
uint64_t shard_seed(const struct shard *shard); /* of its layout */

/* A shard as it was saved. options and io as for shard_new(). IO, VERSION or NOMEM with what is
 * wrong with it; nothing is made then. */
dimfit_err shard_restore(struct archive_reader *in, const struct shard_options *options,
                         const struct shard_io *io, struct shard **out,
                         struct err_detail *detail) MUST_CHECK;

#endif
