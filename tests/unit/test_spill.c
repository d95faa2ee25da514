#include "server/spill.h"
#include "server/slab.h"
#include "tests/unit/table_scene.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <cmocka.h>

enum { CHUNK = SLAB_CHUNK_BYTES };

static char folder[] = "/tmp/dimfit-spill-XXXXXX";

struct files {
    zactor_t *writer;
    struct spill_end *end;
    const struct table_spill *io;
};

static struct files begin(void) {
    struct files f = {0};
    assert_int_equal(spill_start(folder, &f.writer, NULL), DIMFIT_OK);
    assert_int_equal(spill_end_new(folder, &f.end, NULL), DIMFIT_OK);
    f.io = spill_end_io(f.end);
    return f;
}

static void end(struct files *f) {
    spill_end_destroy(&f->end);
    zactor_destroy(&f->writer);
}

static float *chunk_of(float x) {
    float *const chunk = stock_chunk();
    assert_non_null(chunk);
    for (size_t i = 0; i < CHUNK / sizeof *chunk; i++)
        chunk[i] = x + (float)i;
    return chunk;
}

static dimfit_err settled(const struct files *f, const struct spill *spill,
                          struct err_detail *detail) {
    dimfit_err err;
    while ((err = f->io->check(f->io->self, spill, detail)) == DIMFIT_ERR_BUSY)
        zclock_sleep(1);
    return err;
}

static void chunks_are_read_where_they_were_said_to_be(void **state) {
    enum { CHUNKS = 20 };
    struct files f = begin();
    const float *places[CHUNKS];
    struct spill *const spill = f.io->open(f.io->self, 2, (uint64_t)CHUNKS * CHUNK);
    assert_non_null(spill);
    for (size_t i = 0; i < CHUNKS; i++) {
        float *const chunk = chunk_of((float)i);
        while ((places[i] = f.io->write(f.io->self, spill, chunk, CHUNK, i * CHUNK)) == NULL)
            zclock_sleep(1); /* the queue is short */
    }
    assert_int_equal(settled(&f, spill, NULL), DIMFIT_OK);
    for (size_t i = 0; i < CHUNKS; i++) {
        for (size_t k = 0; k < CHUNK / sizeof(float); k += 1001)
            assert_true(places[i][k] == (float)i + (float)k);
    }
    f.io->open_more(f.io->self, spill);
    f.io->close(f.io->self, spill);
    assert_true(places[3][0] == 3); /* one is left that uses it */
    f.io->close(f.io->self, spill);
    end(&f);
}

static void a_file_that_cannot_be_written_is_good_for_nothing(void **state) {
    struct files f = begin();
    struct spill *const spill = f.io->open(f.io->self, 2, 2 * CHUNK);
    struct rlimit limit, small;
    struct err_detail detail;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = CHUNK;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_non_null(f.io->write(f.io->self, spill, chunk_of(1), CHUNK, CHUNK));
    assert_int_equal(settled(&f, spill, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "before epoch 2 could not be written"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    f.io->close(f.io->self, spill);
    end(&f);
}

static void a_folder_that_takes_no_files_is_refused(void **state) {
    zactor_t *writer = NULL;
    struct err_detail detail;
    assert_int_equal(spill_start("/nowhere/at/all", &writer, &detail), DIMFIT_ERR_IO);
    assert_non_null(strstr(detail.text, "/nowhere/at/all"));
    assert_non_null(strstr(detail.text, "--rollback-dir"));
    assert_null(writer);
}

static void what_is_under_way_at_the_end_is_given_up(void **state) {
    struct files f = begin();
    struct spill *const spill = f.io->open(f.io->self, 2, 4 * CHUNK);
    for (size_t i = 0; i < 4; i++)
        assert_non_null(f.io->write(f.io->self, spill, chunk_of(1), CHUNK, i * CHUNK));
    f.io->close(f.io->self, spill);
    end(&f);
}

/* ---- a table's rows -------------------------------------------------------------------------- */

static void change_rows(struct fixture *f, const struct files *files, struct change *change,
                        const struct layout *before) {
    struct layout *next = NULL;
    assert_int_equal(change_apply(change, f->layout, before, &next, NULL), DIMFIT_OK);
    dimfit_err err;
    while ((err = table_change(f->table, change, next, NULL)) == DIMFIT_ERR_BUSY)
        zclock_sleep(1); /* rows are still being written */
    assert_int_equal(err, DIMFIT_OK);
    layout_destroy(&f->layout);
    f->layout = next;
    while (table_move(f->table, 50000)) {
        while (!spill_end_ready(files->end))
            zclock_sleep(1);
    }
}

static void rows_come_back_from_the_disk(void **state) {
    enum { ROWS = 100000, BATCH = 1000 };
    struct files files = begin();
    struct fixture *const f = setup(OPTIMIZER_ADAGRAD);
    table_keep(f->table, true, files.io);
    for (uint64_t i = 0; i < ROWS; i += BATCH) {
        for (uint64_t k = 0; k < BATCH; k++)
            set_key(f, k, i + k);
        for (size_t k = 0; k < (size_t)BATCH * DIM; k++)
            set_grad(f, k, (float)noise(i + k));
        push(f, f->slot, BATCH, NULL);
    }
    float(*const values)[2 * DIM] = malloc(ROWS * sizeof *values);
    struct table_row row;
    for (uint64_t i = 0; i < ROWS; i++) {
        assert_true(table_row(f->slot, i, &row));
        memcpy(values[i], row.values, DIM * sizeof(float));
        memcpy(values[i] + DIM, row.state, DIM * sizeof(float));
    }
    struct layout *before = NULL;
    struct change *change = NULL, *back = NULL;
    assert_int_equal(layout_copy(f->layout, &before), DIMFIT_OK);
    assert_int_equal(change_new(1, 2, 1, &change), DIMFIT_OK);
    assert_int_equal(change_slot_alloc(&change->slots[0], SLOT, DIM, 1, false), DIMFIT_OK);
    change->slots[0].keep[0] = 7;
    assert_int_equal(change_undo(change, 3, &back), DIMFIT_OK);
    change_rows(f, &files, change, NULL);
    const struct table_figures narrow = table_figures(f->table);
    assert_true(narrow.saved_bytes >= ROWS * 2 * DIM * sizeof(float));
    assert_true(narrow.slab_bytes <= ROWS * 3 * sizeof(float) + (6 << 20));
    change_rows(f, &files, back, before);
    for (uint64_t i = 0; i < ROWS; i++) {
        assert_true(table_row(f->slot, i, &row));
        assert_memory_equal(row.values, values[i], DIM * sizeof(float));
        assert_memory_equal(row.state, values[i] + DIM, DIM * sizeof(float));
    }
    free(values);
    change_destroy(&change);
    change_destroy(&back);
    layout_destroy(&before);
    teardown(f);
    end(&files);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_are_read_where_they_were_said_to_be),
        cmocka_unit_test(a_file_that_cannot_be_written_is_good_for_nothing),
        cmocka_unit_test(a_folder_that_takes_no_files_is_refused),
        cmocka_unit_test(what_is_under_way_at_the_end_is_given_up),
        cmocka_unit_test(rows_come_back_from_the_disk),
    };
    if (mkdtemp(folder) == NULL)
        return 1;
    zsys_handler_set(NULL);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    zsys_shutdown();
    return rmdir(folder) == 0 ? failed : 1; /* its files had no names */
}
