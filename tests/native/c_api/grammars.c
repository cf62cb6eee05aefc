/* Grammars: which tokens come, which drafts are evaluated, what a grammar hears of, how it fails, and that none of that
 * depends on what was drafted or on other sequences.
 *
 *     grammars TARGET.gguf ASSISTANT.gguf
 */
#include "several.h"

/* Token i of the completion is i modulo 3, until the grammar fails. It believes nothing that it is told. */
typedef struct {
    int32_t n_vocab;
    int32_t n;          /* committed */
    int32_t n_refused;  /* drafts */
    int32_t fails_at;   /* masks() fails when so many are committed, which it lets no round pass; -1: never */
    int32_t empty_from; /* nothing is allowed from there on; -1: never */
    int32_t wrong;      /* what masks() adds to its result */
    int32_t fails_in_commit;
    int32_t tokens[MAX_TEXT];
} thirds;

static int32_t thirds_masks(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed) {
    thirds * t = user;
    const int32_t n_words = (t->n_vocab + 31) / 32;
    for (int32_t i = 0; i < (n_drafts + 1) * n_words; i++) {
        CHECK(allowed[i] == 0);
    }
    if (t->n == t->fails_at) {
        return -1;
    }
    for (int32_t i = 0;; i++) {
        const int32_t position = t->n + i;
        const int empty = t->empty_from >= 0 && position >= t->empty_from;
        for (int32_t token = position % 3; token < t->n_vocab && !empty; token += 3) {
            allowed[i * n_words + token / 32] |= UINT32_C(1) << token % 32;
        }
        if (i == n_drafts || empty || position + 1 == t->fails_at) {
            return i + t->wrong;
        }
        if (drafts[i] % 3 != position % 3) {
            t->n_refused++;
            return i + t->wrong;
        }
    }
}

static int32_t thirds_allows(void * user, const int32_t * tokens, int32_t n) {
    const thirds * t = user;
    CHECK(n >= 1);
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] % 3 != (t->n + i) % 3) {
            return 0;
        }
    }
    return 1;
}

static int32_t thirds_commit(void * user, const int32_t * tokens, int32_t n) {
    thirds * t = user;
    CHECK(n >= 1);
    for (int32_t i = 0; i < n; i++) {
        CHECK(tokens[i] % 3 == t->n % 3 && t->n < MAX_TEXT);
        t->tokens[t->n++] = tokens[i];
    }
    return t->fails_in_commit ? -1 : 0;
}

static thirds new_thirds(pmtp_model * model) {
    pmtp_model_info info;
    CHECK(pmtp_model_get_info(model, &info) == PMTP_OK);
    return (thirds) { .n_vocab = info.n_vocab, .fails_at = -1, .empty_from = -1 };
}

static pmtp_grammar grammar_of(thirds * t) { return (pmtp_grammar) { thirds_masks, thirds_commit, t, NULL }; }

/* A grammar that is asked for fewer masks gives the same text of the same drafts. */
static void check_allows(pmtp_model * model, const pmtp_sequence_params * params, const completion * reference) {
    const completion done = complete(model, PROMPT, params);
    CHECK(same(reference, &done));
    CHECK(params->num_speculative_tokens == PMTP_DRAFT_AUTO ||
          (done.stats.drafted == reference->stats.drafted && done.stats.accepted == reference->stats.accepted));
}

/* Every rule and number of drafts: the grammar hears of exactly the completion, drafts that it refuses are counted
 * once, and what must not depend on the drafts does not. */
static void check_rules(pmtp_model * model) {
    const int32_t drafts[] = { 0, 1, 2, 4, 8, PMTP_MAX_DRAFT, PMTP_DRAFT_AUTO };
    for (int32_t rule = PMTP_ACCEPTANCE_AUTO; rule <= PMTP_ACCEPTANCE_BLOCK; rule++) {
        for (int kind = 0; kind < 3; kind++) {
            completion plain = { { 0 }, 0, PMTP_FINISH_NONE, { 0 } };
            int32_t n_refused = 0, n_accepted = 0;
            for (size_t i = 0; i < sizeof drafts / sizeof *drafts; i++) {
                thirds t = new_thirds(model);
                pmtp_sequence_params params = greedy(36, drafts[i]);
                params.acceptance = rule;
                params.temperature = kind == 0 ? 0 : 0.8;
                params.top_p = kind == 2 ? 0.9 : 1;
                params.seed = 5;
                params.ignore_eos = 1;
                params.n_logprobs = i % 2 == 0 ? -1 : 3;
                params.grammar = grammar_of(&t);
                const completion done = complete(model, PROMPT, &params);
                CHECK(done.n == 36 && t.n == 36 && memcmp(t.tokens, done.tokens, sizeof(int32_t) * 36) == 0);
                CHECK(done.stats.drafted >= done.stats.accepted + t.n_refused || drafts[i] == PMTP_DRAFT_AUTO);
                plain = i == 0 ? done : plain;
                CHECK(rule > PMTP_ACCEPTANCE_COUPLED || same(&plain, &done));
                n_refused += t.n_refused;
                n_accepted += done.stats.accepted;
                thirds asked = new_thirds(model);
                params.grammar = grammar_of(&asked);
                params.grammar.allows = thirds_allows;
                check_allows(model, &params, &done);
            }
            CHECK(n_refused > 0 && n_accepted > 0);
        }
    }
}

/* Of three sequences the second has a grammar: its text is what it is alone, and so are the others'. */
static void check_neighbours(pmtp_model * alone, pmtp_model * several) {
    thirds t = new_thirds(alone), again = t;
    pmtp_sequence_params params = course_params(1);
    params.grammar = grammar_of(&t);
    course reference[3], courses[3];
    for (int i = 0; i < 3; i++) {
        const pmtp_sequence_params own = i == 1 ? params : course_params(i);
        begin_course_with(alone, &reference[i], i, &own);
        run_courses(alone, &reference[i], 1, 1);
    }
    params.grammar = grammar_of(&again);
    for (int i = 0; i < 3; i++) {
        const pmtp_sequence_params own = i == 1 ? params : course_params(i);
        begin_course_with(several, &courses[i], i, &own);
    }
    run_courses(several, courses, 3, 2);
    for (int i = 0; i < 3; i++) {
        CHECK(same(&courses[i].done, &reference[i].done));
    }
    CHECK(again.n == t.n && memcmp(again.tokens, t.tokens, sizeof t.tokens) == 0);
}

/* A fault of a grammar ends its own sequence, whose tokens stay, and leaves the others and the cache as they were: rows
 * of a failed step once stayed there, under positions that the next prompt fills. */
static void check_failure(pmtp_model * model, thirds t, pmtp_status status, int32_t n, const char * word) {
    course courses[3], reference[3];
    for (int i = 0; i < 3; i += 2) {
        begin_course(model, &reference[i], i);
        run_courses(model, &reference[i], 1, 1);
    }
    for (int i = 0; i < 3; i++) {
        pmtp_sequence_params params = course_params(i);
        params.grammar = i == 1 ? grammar_of(&t) : params.grammar;
        params.num_speculative_tokens = 3;
        begin_course_with(model, &courses[i], i, &params);
    }
    while (courses[1].done.finish == PMTP_FINISH_NONE) {
        step_courses(model, courses, 3, 2);
    }
    CHECK(courses[1].done.finish == PMTP_FINISH_FAILED && courses[1].status == (int32_t) status);
    CHECK(n < 0 || courses[1].done.n == n);
    CHECK(strstr(pmtp_sequence_error(courses[1].sequence), word) != NULL);
    run_courses(model, courses, 3, 2);
    CHECK(same(&courses[0].done, &reference[0].done) && same(&courses[2].done, &reference[2].done));
}

static void check_failures(pmtp_model * model) {
    const thirds good = new_thirds(model);
    for (int32_t at = 0; at < 4; at++) {
        thirds t = good;
        t.fails_at = at;
        check_failure(model, t, PMTP_ERROR_INTERNAL, at, "masks()");
        t = good;
        t.empty_from = at;
        check_failure(model, t, PMTP_ERROR_INVALID_ARGUMENT, at, "forbidden");
    }
    thirds t = good;
    t.wrong = PMTP_MAX_DRAFT + 1;
    check_failure(model, t, PMTP_ERROR_INTERNAL, 0, "masks()");
    t.wrong = 1; /* more drafts than its masks allow, sooner or later */
    check_failure(model, t, PMTP_ERROR_INTERNAL, -1, "masks()");
    t = good;
    t.fails_in_commit = 1;
    check_failure(model, t, PMTP_ERROR_INTERNAL, 1, "commit()");

    const double forced[] = { 0.5 };
    pmtp_sequence_params params = greedy(4, 1);
    pmtp_sequence * sequence = NULL;
    t = good;
    params.grammar = grammar_of(&t);
    params.synthetic_acceptance = forced;
    params.n_synthetic_acceptance = 1;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, good.tokens, 1, &params, &sequence));
    params.n_synthetic_acceptance = 0;
    params.grammar.commit = NULL;
    CHECK_FAILS(PMTP_ERROR_INVALID_ARGUMENT, try_start(model, good.tokens, 1, &params, &sequence));
}

/* logit_bias and min_tokens beside a grammar: a bias is added to allowed tokens, and an end that is all a grammar
 * allows comes before min_tokens. */
static int32_t end_after_three_masks(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed) {
    thirds * t = user;
    (void) drafts, (void) n_drafts;
    const int32_t end = t->tokens[MAX_TEXT - 1];
    allowed[end / 32] |= UINT32_C(1) << end % 32;
    for (int32_t token = 0; token < t->n_vocab && t->n < 3; token += 3) {
        allowed[token / 32] |= UINT32_C(1) << token % 32;
    }
    return 0;
}

static int32_t count_commit(void * user, const int32_t * tokens, int32_t n) {
    (void) tokens;
    ((thirds *) user)->n += n;
    return 0;
}

static void check_other_options(pmtp_model * model) {
    for (int32_t min_tokens = 0; min_tokens <= 10; min_tokens += 2) {
        thirds t = new_thirds(model);
        pmtp_sequence_params params = greedy(12, 3);
        t.tokens[MAX_TEXT - 1] = 301;
        params.stop_tokens = &t.tokens[MAX_TEXT - 1];
        params.n_stop_tokens = 1;
        params.min_tokens = min_tokens;
        params.grammar = (pmtp_grammar) { end_after_three_masks, count_commit, &t, NULL };
        const pmtp_logit_bias bias = { 302, 1000 }, to_end = { 301, 1000 };
        params.logit_bias = min_tokens > 6 ? &bias : &to_end;
        params.n_logit_bias = 1;
        const completion done = complete(model, PROMPT, &params);
        CHECK(done.finish == PMTP_FINISH_STOP && done.n == (min_tokens < 3 ? min_tokens + 1 : 4));
        CHECK(done.tokens[done.n - 1] == 301);
        for (int32_t i = 0; i + 1 < done.n; i++) {
            CHECK(done.tokens[i] % 3 == 0);
        }
    }
}

/* Stands for llguidance: a text is tokens 10, 11, 12 ... in this order, then the end, 1. */
typedef struct {
    int32_t next, n_consumed, fails_at;
} counter;

static int32_t counter_mask(void * matcher, uint32_t * mask, size_t n_bytes) {
    const counter * c = matcher;
    memset(mask, 0, n_bytes);
    mask[0] = UINT32_C(1) << c->next | UINT32_C(1) << 1;
    return c->next == c->fails_at ? -1 : 0;
}

static int32_t counter_consume(void * matcher, const uint32_t * tokens, size_t n) {
    counter * c = matcher;
    for (size_t i = 0; i < n; i++) {
        CHECK((int32_t) tokens[i] == c->next);
        c->next++;
        c->n_consumed++;
    }
    return 0;
}

static int32_t counter_rollback(void * matcher, size_t n) {
    counter * c = matcher;
    c->next -= (int32_t) n;
    return 0;
}

/* As llguidance's, which knows an end where it may stand and nothing behind it. */
static int32_t counter_validate(void * matcher, const uint32_t * tokens, size_t n) {
    int32_t next = ((const counter *) matcher)->next;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] == 1) {
            return (int32_t) i + 1;
        }
        if ((int32_t) tokens[i] != next++) {
            return (int32_t) i;
        }
    }
    return (int32_t) n;
}

enum { BEGINS = 2, ENDS = 3, OPENS = 10, WORDS = 2 };

static int allows(const uint32_t * mask, int32_t token) { return (mask[token / 32] >> token % 32 & 1) != 0; }

/* What a matcher says of drafts, for every way to cut a text into what is committed and what is drafted. */
static void check_matcher(int32_t phase, const int32_t * text, int32_t n_text, int32_t n_legal, int32_t n_thought) {
    static const int32_t ends[] = { 1 };
    for (int32_t committed = 0; committed <= n_legal && committed <= n_text; committed++) {
        counter c = { .next = 10, .fails_at = -1 };
        pmtp_matcher m = {
            &c,    counter_mask, counter_consume, counter_rollback, counter_validate, 40, 1, ends, BEGINS, ENDS,
            OPENS, phase
        };
        if (committed > 0) {
            CHECK(pmtp_matcher_commit(&m, text, committed) == 0);
        }
        uint32_t allowed[9 * WORDS] = { 0 };
        const int32_t next = c.next, n_drafts = n_text - committed;
        CHECK(n_drafts <= 8);
        const int32_t n = pmtp_matcher_masks(&m, text + committed, n_drafts, allowed);
        CHECK(n == (n_legal > committed ? n_legal - committed : 0));
        for (int32_t i = 1; i <= n_drafts; i++) {
            CHECK(pmtp_matcher_allows(&m, text + committed, i) == (i <= n));
        }
        CHECK(c.next == next && (m.phase == 0) == (committed >= n_thought && (phase != 2 || committed > 0)));
        for (int32_t i = 0; i <= n; i++) {
            const uint32_t * mask = allowed + i * WORDS;
            const int32_t position = committed + i;
            const int in_thought = phase == 1 ? position < n_thought : position > 0 && position < n_thought;
            CHECK(i == n || allows(mask, text[committed + i]));
            CHECK(!in_thought || (allows(mask, 5) && allows(mask, ENDS) && !allows(mask, 1)));
            CHECK(in_thought || position > 0 || allows(mask, BEGINS) == (phase == 2));
        }
    }
}

/* Amid free text a token opens the grammar, or is forbidden. */
static void check_text(void) {
    static const int32_t ends[] = { 1 }, text[] = { 5, BEGINS, OPENS, 11, 12, 5 };
    counter c = { .next = 10, .fails_at = -1 };
    for (int without = 0; without < 2; without++) {
        pmtp_matcher m = { without ? NULL : &c,
                           counter_mask,
                           counter_consume,
                           counter_rollback,
                           counter_validate,
                           40,
                           1,
                           ends,
                           -1,
                           -1,
                           OPENS,
                           PMTP_PHASE_IN_TEXT };
        uint32_t allowed[7 * WORDS] = { 0 };
        CHECK(pmtp_matcher_masks(&m, text, 6, allowed) == (without ? 2 : 5) && c.next == 10);
        CHECK(allows(allowed, 1) && allows(allowed, OPENS) == !without);
        for (int32_t i = 1; i <= 6; i++) {
            CHECK(pmtp_matcher_allows(&m, text, i) == (i <= (without ? 2 : 5)));
        }
        CHECK(pmtp_matcher_allows(&m, ends, 1) == 1);
        CHECK(pmtp_matcher_commit(&m, text, 2) == 0 && m.phase == PMTP_PHASE_IN_TEXT && c.next == 10);
        if (!without) {
            CHECK(pmtp_matcher_commit(&m, text + 2, 2) == 0 && m.phase == PMTP_PHASE_BEGUN && c.next == 12);
        }
        c.next = 10;
    }
}

static void check_matchers(void) {
    const int32_t at_once[] = { 10, 11, 12, 13 }, refused[] = { 10, 11, 5, 12 }, ended[] = { 10, 11, 1 };
    check_matcher(0, at_once, 4, 4, 0);
    check_matcher(0, refused, 4, 2, 0);
    check_matcher(0, ended, 3, 3, 0);
    check_matcher(2, at_once, 4, 4, 0);
    const int32_t thought[] = { BEGINS, 5, 6, ENDS, 10, 11, 12 }, wrong[] = { BEGINS, 5, ENDS, 5, 6 };
    check_matcher(2, thought, 7, 7, 4);
    check_matcher(1, thought + 1, 6, 6, 3);
    check_matcher(2, wrong, 5, 3, 3);
    const int32_t in_thought[] = { 5, 1, 6 }, twice[] = { ENDS, 10, BEGINS, 5 };
    check_matcher(1, in_thought, 3, 1, 9); /* no end in a thought */
    check_matcher(1, twice, 4, 2, 1);      /* and no second thought */
    check_text();
    counter c = { .next = 10, .fails_at = 12 };
    pmtp_matcher m = {
        &c, counter_mask, counter_consume, counter_rollback, counter_validate, 40, 1, ended + 2, -1, -1, -1, 0
    };
    uint32_t allowed[9 * WORDS];
    CHECK(pmtp_matcher_masks(&m, at_once, 4, allowed) < 0 && c.next == 10);
}

int main(int argc, char ** argv) {
    CHECK(argc == 3);
    check_matchers();
    pmtp_model * model = load(argv[1], argv[2], 1);
    pmtp_model * several = load_several(argv[1], argv[2], 3, 0);
    check_rules(model);
    check_other_options(model);
    check_neighbours(model, several);
    check_failures(several);
    pmtp_model_free(several);
    pmtp_model_free(model);
    puts("every grammar was kept");
    return 0;
}
