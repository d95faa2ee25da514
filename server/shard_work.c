#include "server/shard_internal.h"

enum { MOVE_NS = 50000 }; /* a slice of moving, about */

static void work_moving(struct shard *shard) {
    if (!table_move(shard->table, MOVE_NS) && shard->io.purge != NULL)
        shard->io.purge(shard->io.self);
}

bool shard_has_work(const struct shard *shard) {
    if (shard->replaying)
        return table_in_motion(shard->table);
    return table_in_motion(shard->table) || shard_gathers(shard) || shard_shrinks(shard);
}

/* Whatever else there is waits for rows to stand still. */
bool shard_work(struct shard *shard) {
    CHECK_OBJ_NOTNULL(shard, SHARD_MAGIC);
    if (table_in_motion(shard->table))
        work_moving(shard);
    else if (shard->replaying)
        return false; /* slices are in the log */
    else if (shard_gathers(shard))
        shard_work_gather(shard);
    else if (shard_shrinks(shard))
        shard_work_shrink(shard);
    return shard_has_work(shard);
}
