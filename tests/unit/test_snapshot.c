/* Snapshots in files: written by this process or a child of it, whole or refused. */
#include "server/snapshot.h"

#include "proto/section.h"
#include "tests/unit/buf_archive.h"
#include "tests/unit/mem_disk.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { SLOT = 3, DIM = 4, NAMES = 64 };

static const struct shard_options options = {.score_memory = 1 << 20, .score_sample = 1};
static uint8_t answer[1 << 16];

static uint8_t *io_body(void *self, size_t len) {
    assert_true(len <= sizeof answer);
    return answer;
}

static const struct shard_io io = {.body = io_body};

/* Integer gradients and SGD of rate 1: a row is an exact sum. */
static struct shard *shard_with(uint64_t rows) {
    struct shard *shard = NULL;
    struct layout *layout = NULL;
    const struct layout_slot spec = {
        .id = SLOT,
        .dim = DIM,
        .width = DIM,
        .search = true,
        .name = "saved",
        .optimizer = {.kind = OPTIMIZER_SGD, .lr = 1, .eps = 1e-8f},
        .init = INIT_ZERO,
    };
    assert_int_equal(layout_new(1, 7, &layout), DIMFIT_OK);
    assert_int_equal(layout_add_slot(layout, &spec, NULL), DIMFIT_OK);
    assert_int_equal(shard_new(layout, &options, &io, &shard), DIMFIT_OK);
    layout_destroy(&layout);
    uint64_t seq = 0;
    for (uint64_t first = 0; first < rows; first += 1000) {
        const uint32_t n = (uint32_t)(rows - first < 1000 ? rows - first : 1000);
        const struct section section = {.slot = SLOT, .rows = n, .width = DIM};
        uint8_t body[100 + 1000 * (8 + 4 * DIM)];
        uint8_t *at = body + section_put_head(body, &section, 1, 0);
        for (uint64_t key = first; key < first + n; key++, at += 8)
            memcpy(at, &key, 8);
        for (size_t i = 0; i < (size_t)n * DIM; i++, at += 4)
            memcpy(at, &(float){-(float)(i % 97)}, 4);
        const struct wire_header header = {.kind = WIRE_PUSH,
                                           .mode = PUSH_TRAIN,
                                           .client = 1,
                                           .incarnation = 1,
                                           .epoch = 1,
                                           .seq = ++seq};
        struct shard_reply reply;
        shard_request(shard, &header, body, (size_t)(at - body), &reply);
        assert_int_equal(reply.header.status, DIMFIT_OK);
    }
    return shard;
}

static void assert_same(const struct shard *a, const struct shard *b) {
    struct buf x, y;
    buf_init(&x);
    buf_init(&y);
    buf_archive_save(a, 0, &x);
    buf_archive_save(b, 0, &y);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_fini(&x);
    buf_fini(&y);
}

static struct snapshot_job job_of(const struct shard *shard, struct disk *disk) {
    return (struct snapshot_job){.shard = shard,
                                 .info = {.shard = 1, .shards = 3, .position = 77},
                                 .disk = disk,
                                 .name = "state"};
}

static void assert_restores(struct disk *disk, const char *name, const struct shard *shard) {
    struct snapshot_info info = {0};
    struct shard *restored = NULL;
    struct err_detail detail = {{0}};
    assert_int_equal(snapshot_restore(disk, name, &options, &io, &info, &restored, &detail),
                     DIMFIT_OK);
    assert_int_equal(info.shard, 1);
    assert_int_equal(info.shards, 3);
    assert_int_equal(info.position, 77);
    assert_int_equal(info.epoch, 1);
    assert_int_equal(info.cluster, 7);
    assert_same(shard, restored);
    shard_destroy(&restored);
}

/* ---- on a disk in memory --------------------------------------------------------------------- */

static void a_snapshot_is_restored_and_verified(void **state) {
    struct mem_disk *const mem = mem_disk_new(1);
    struct disk *disk = mem_disk_open(mem);
    struct shard *shard = shard_with(60000); /* some blocks */
    struct snapshot_job job = job_of(shard, disk);
    struct snapshot_result written, verified;
    struct snapshot_info info;
    struct err_detail detail;
    assert_int_equal(snapshot_write(&job, &written, &detail), DIMFIT_OK);
    assert_int_equal(written.rows, 60000);
    assert_restores(disk, "state", shard);
    assert_int_equal(snapshot_verify(disk, "state", &info, &verified, &detail), DIMFIT_OK);
    assert_int_equal(verified.bytes, written.bytes);
    assert_int_equal(verified.checksum, written.checksum);
    assert_int_equal(verified.rows, written.rows);
    assert_int_equal(info.position, 77);
    size_t len;
    assert_non_null(mem_disk_bytes(mem, "state", &len));
    assert_int_equal(len, written.bytes);
    assert_null(mem_disk_bytes(mem, "state.next", &len));
    assert_int_equal(snapshot_verify(disk, "none", &info, &verified, &detail),
                     DIMFIT_ERR_NOT_FOUND);
    shard_destroy(&shard);
    disk_close(&disk);
    mem_disk_free(mem);
}

static void assert_refused(struct disk *disk) {
    struct snapshot_info info;
    struct snapshot_result result;
    struct shard *shard = NULL;
    struct err_detail detail = {{0}};
    const dimfit_err err = snapshot_verify(disk, "state", &info, &result, &detail);
    assert_true(err == DIMFIT_ERR_IO || err == DIMFIT_ERR_VERSION);
    assert_non_null(strstr(detail.text, "state is damaged at byte"));
    const dimfit_err again = snapshot_restore(disk, "state", &options, &io, &info, &shard, &detail);
    assert_true(again == DIMFIT_ERR_IO || again == DIMFIT_ERR_VERSION);
    assert_null(shard);
}

static void every_flipped_byte_and_every_cut_is_refused(void **state) {
    struct mem_disk *const mem = mem_disk_new(1);
    struct disk *disk = mem_disk_open(mem);
    struct shard *shard = shard_with(20);
    struct snapshot_job job = job_of(shard, disk);
    struct snapshot_result result;
    struct err_detail detail;
    struct disk_file *file = NULL;
    assert_int_equal(snapshot_write(&job, &result, &detail), DIMFIT_OK);
    size_t len = 0;
    uint8_t *const bytes = mem_disk_bytes(mem, "state", &len);
    for (size_t i = 0; i < len; i++) {
        const uint8_t was = bytes[i];
        bytes[i] ^= (uint8_t)(1u << i % 8);
        assert_refused(disk);
        bytes[i] = was;
    }
    assert_restores(disk, "state", shard);
    assert_int_equal(disk_open(disk, "state", DISK_WRITE, &file, &detail), DIMFIT_OK);
    const struct iovec more = {&(char){1}, 1};
    assert_int_equal(disk_file_write(file, &more, 1, len, &detail), DIMFIT_OK);
    assert_refused(disk);
    for (size_t cut = len; cut-- > 0;) {
        assert_int_equal(disk_file_truncate(file, cut, &detail), DIMFIT_OK);
        assert_refused(disk);
    }
    disk_file_close(&file);
    shard_destroy(&shard);
    disk_close(&disk);
    mem_disk_free(mem);
}

/* Each operation fails once: there is the snapshot before, or after the rename the new one. */
static void a_failing_disk_leaves_the_snapshot_before(void **state) {
    struct err_detail detail;
    struct snapshot_result result;
    struct shard *before = shard_with(30), *after = shard_with(70000);
    size_t failed = 0;
    for (uint64_t n = 1; n < 1000; n++) {
        struct mem_disk *const mem = mem_disk_new(n);
        struct disk *disk = mem_disk_open(mem);
        struct snapshot_job job = job_of(before, disk);
        assert_int_equal(snapshot_write(&job, &result, &detail), DIMFIT_OK);
        job.shard = after;
        mem_disk_fail(mem, n, 0);
        const dimfit_err err = snapshot_write(&job, &result, &detail);
        mem_disk_fail(mem, 0, 0);
        if (err == DIMFIT_OK) {
            assert_restores(disk, "state", after);
            disk_close(&disk);
            mem_disk_free(mem);
            break;
        }
        struct snapshot_info info;
        failed++;
        assert_int_equal(snapshot_verify(disk, "state", &info, &result, &detail), DIMFIT_OK);
        assert_true(result.rows == 30 || result.rows == 70000);
        disk_close(&disk);
        mem_disk_free(mem);
    }
    assert_true(failed > 5);
    shard_destroy(&before);
    shard_destroy(&after);
}

/* ---- on the real one, by a child ------------------------------------------------------------- */

static struct disk *real_disk(char *folder) {
    struct disk *disk = NULL;
    struct err_detail detail;
    strcpy(folder, "/tmp/dimfit-snapshot-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(disk_folder_open(folder, &disk, &detail), DIMFIT_OK);
    return disk;
}

static void drop_folder(struct disk **disk, const char *folder, const char *const *names) {
    struct err_detail detail;
    for (; *names != NULL; names++)
        assert_int_equal(disk_remove(*disk, *names, &detail), DIMFIT_OK);
    disk_close(disk);
    assert_int_equal(rmdir(folder), 0);
}

static dimfit_err wait_for(struct snapshot *snapshot, struct snapshot_result *result,
                           struct err_detail *detail) {
    dimfit_err err;
    while ((err = snapshot_poll(snapshot, result, detail)) == DIMFIT_ERR_BUSY) {
        struct pollfd fd = {.fd = snapshot_fd(snapshot), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, 60000), 1);
    }
    return err;
}

static void train_more(struct shard *shard) {
    const struct section section = {.slot = SLOT, .rows = 1, .width = DIM};
    uint8_t body[100] = {0};
    const size_t head = section_put_head(body, &section, 1, 0);
    memcpy(body + head + 8, (float[DIM]){1, 1, 1, 1}, 4 * DIM);
    struct shard_reply reply;
    const struct wire_header header = {
        .kind = WIRE_PUSH, .mode = PUSH_TRAIN, .client = 9, .incarnation = 1, .epoch = 1, .seq = 1};
    shard_request(shard, &header, body, head + 8 + 4 * DIM, &reply);
    assert_int_equal(reply.header.status, DIMFIT_OK);
}

/* The child has the shard as it was, whatever becomes of it meanwhile. */
static void a_child_writes_what_the_shard_was_while_it_goes_on(void **state) {
    char folder[NAMES];
    struct disk *disk = real_disk(folder);
    struct shard *shard = shard_with(200000), *same = shard_with(200000);
    struct snapshot_job job = job_of(shard, disk);
    struct snapshot *snapshot = NULL;
    struct snapshot_result result;
    struct err_detail detail = {{0}};
    assert_int_equal(snapshot_start(&job, &snapshot, &detail), DIMFIT_OK);
    train_more(shard);
    shard_destroy(&shard);
    assert_int_equal(wait_for(snapshot, &result, &detail), DIMFIT_OK);
    assert_int_equal(snapshot_poll(snapshot, &result, &detail), DIMFIT_OK);
    snapshot_destroy(&snapshot);
    assert_restores(disk, "state", same);
    shard_destroy(&same);
    drop_folder(&disk, folder, (const char *const[]){"state", NULL});
}

static void a_snapshot_that_is_given_up_leaves_nothing(void **state) {
    char folder[NAMES];
    struct disk *disk = real_disk(folder);
    struct shard *shard = shard_with(200000);
    struct snapshot_job job = job_of(shard, disk);
    struct snapshot *snapshot = NULL;
    struct err_detail detail = {{0}};
    assert_int_equal(snapshot_start(&job, &snapshot, &detail), DIMFIT_OK);
    snapshot_destroy(&snapshot);
    drop_folder(&disk, folder, (const char *const[]){"state", NULL});
    shard_destroy(&shard);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_is_restored_and_verified),
        cmocka_unit_test(every_flipped_byte_and_every_cut_is_refused),
        cmocka_unit_test(a_failing_disk_leaves_the_snapshot_before),
        cmocka_unit_test(a_child_writes_what_the_shard_was_while_it_goes_on),
        cmocka_unit_test(a_snapshot_that_is_given_up_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
