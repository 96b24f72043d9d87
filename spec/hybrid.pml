/* The hybrid tracker's protocol: collect, arm, wake, hand over. See docs/protocol.md and spec/README.md.
 *
 * What is abstracted, and why nothing is lost by it:
 *   Values.    A page's value is a counter of its versions; copy and memory are equal exactly if nothing was written
 *              since the consumer's last read. So one bit for each page, `differs`, says all, and writers may write for
 *              ever.
 *   Pages.     A page is one location. Two bytes of one page are read at two moments, but each has its own order of
 *              store, protection and read, which is the one modelled here.
 *   Time.      There is none: whatever is waited for a bounded time may time out at once, and a process that is stopped
 *              for a while is one that the scheduler passes over. Only stopping for ever is modelled as a fault.
 *   Attach     and detach are not modelled: both descriptors, the watchdog and its socket are there at the start.
 *
 * The kernel is Linux 6.18's; what matters here was measured on it:
 *   UFFDIO_UNREGISTER lifts protection but wakes no writer held by write protection; UFFDIO_WRITEPROTECT in mode 0
 *   wakes those of its own descriptor and fails, waking nobody, on a range that is registered with none.
 *   UFFDIO_WRITEPROTECT does not ask whose registration it is: S lifts A's protection too.
 *
 * Each rule of the protocol can be broken by a macro, -DBREAK_...; tests/spec/test_hybrid_protocol.py does so one at a
 * time. Other macros choose what is looked at, so that the state space stays small:
 *   LIVENESS    for what happens in the end: processes may stop for ever, writers may end. Leaves TLBs out.
 *   HOLDING     without the consumer and open tiles, for who is held and what stays protected.
 *   MAIN_LIVES  nothing happens to main.
 *   ONE_WRITER  instead of two.
 *   TWO_FAULTS  one of main and watchdog may be stopped for ever and the other die: more than is promised.
 */

#ifndef PAGES
#define PAGES 2
#endif
#define WRITERS 2
#define ROOM    8 /* words; the socket's buffer is larger by far, and that this suffices is asserted */
#define ALL     ((1 << PAGES) - 1)
#define BIT(p)  (1 << (p))
#define TILE    BIT(PAGES - 1) /* the last page is a tile of its own that may be open; the others stay logged */

mtype:owner = { NOBODY, LOG, SYNC };    /* with which descriptor the range is registered: none, A, S */
mtype:hold  = { FREE, UNREAD, READ };   /* a writer: not held; held, its message unread; held, its message read */
mtype:word  = { BEGIN, DONE };          /* the watchdog's words to main */

/* ---- the kernel ---- */
mtype:owner registered = LOG;
byte protected;          /* pages; a page in A's epoch that is not protected counts as written */
byte stale;              /* pages protected whose TLB entries have not been flushed: may still be stored to unseen */
mtype:hold held[WRITERS] = FREE;
byte at[WRITERS];        /* the page each is held at; 0 when free */

/* Who holds which descriptor. A: main alone. S: main and watchdog. The socket has an end on each side. */
bit main_a = 1, main_s = 1, main_socket = 1;
bit dog_s = 1, dog_socket = 1;
chan socket = [ROOM] of { mtype:word };

/* ---- the consumer ---- */
#ifdef HOLDING
#define STORED 0
#else
#define STORED 1
#endif
byte differs = ALL * STORED; /* pages whose copy is not what is in memory; at the start there is no copy */

/* ---- faults, and what main is at: for the properties alone ---- */
bit main_dead, main_stopped, dog_dead, dog_stopped;
bit resting;             /* main is in no collect and its consumer has read what was reported */
bit armed;               /* main's own idea of the epoch */
byte open;               /* main's open tiles */

#define READABLE  (held[0] == UNREAD || held[1] == UNREAD)
#define END_MAIN  (!dog_socket && !len(socket)) /* what main reads as end of file */

#ifdef BREAK_MAIN_IGNORES_S
#define S_WAKES_MAIN 0
#else
#define S_WAKES_MAIN READABLE
#endif
#ifdef BREAK_MAIN_IGNORES_EOF
#define EOF_WAKES_MAIN 0
#else
#define EOF_WAKES_MAIN (!dog_socket)
#endif

/* Whether S ends main's waiting, and who is told of a fault. Waiting exclusively (EPOLLEXCLUSIVE on both sides) one of
 * the two is: the watchdog if it waits. */
#ifdef BREAK_MAIN_WAITS_EXCLUSIVELY
bit dog_waits, main_told;
#define S_ENDS_WAITING main_told
#define TELL() main_told = main_told || !dog_waits || dog_stopped; dog_waits = 0
#define MAIN_WAITS()   main_told = READABLE
#define DOG_WAITS()    dog_waits = !READABLE
#else
#define S_ENDS_WAITING S_WAKES_MAIN
#define TELL()         skip
#define MAIN_WAITS()   skip
#define DOG_WAITS()    skip
#endif

/* ---- what the kernel does ----
 * Registering and unregistering exclude all else. The walks go page by page, and anything may happen between two. */
#define EACH_PAGE(action) \
    do \
    :: d_step { p < PAGES -> action; p++ } \
    :: d_step { p == PAGES -> p = 0 }; break \
    od
/* UFFDIO_WRITEPROTECT on one page, in mode WP and in mode 0: ENOENT if nobody is registered */
#ifdef LIVENESS /* one more way to store is no one's hindrance: leave the state space small */
#define MAY_BE_STALE 0
#else
#define MAY_BE_STALE 1
#endif
#define PROTECT(p) \
    stale = stale | (MAY_BE_STALE && registered != NOBODY && !(protected & BIT(p)) -> BIT(p) : 0); \
    protected = protected | (registered != NOBODY -> BIT(p) : 0)
#define LIFT(p) \
    protected = protected & ~BIT(p); \
    stale = stale & ~BIT(p)
inline free_writer(w) { held[w] = FREE; at[w] = 0 }
inline wake(pages) { /* at the end of UFFDIO_WRITEPROTECT, mode 0, if it did not fail */
    atomic {
        if
        :: registered != NOBODY && held[0] != FREE && (BIT(at[0]) & (pages)) -> free_writer(0)
        :: else
        fi;
        if
        :: registered != NOBODY && held[1] != FREE && (BIT(at[1]) & (pages)) -> free_writer(1)
        :: else
        fi
    }
}
#define FLUSH() stale = 0
inline unregister() { atomic { registered = NOBODY; protected = 0; stale = 0 } }
inline close_s() { /* called by whoever gave its reference up: the last one releases */
    if
    :: !main_s && !dog_s ->
        free_writer(0);
        free_writer(1);
        if
        :: registered == SYNC -> registered = NOBODY; protected = 0; stale = 0
        :: else
        fi
    :: else
    fi
}
inline close_a() {
    if
    :: registered == LOG -> registered = NOBODY; protected = 0; stale = 0
    :: else
    fi
}

/* ---- a writer stores to any page at any time, or never again ---- */
proctype Writer(byte me) {
    byte page;
    do
    :: atomic {
           held[me] == FREE -> select(page : 0 .. PAGES - 1);
           if
           :: !(protected & BIT(page)) || (stale & BIT(page)) ->
               differs = differs | (main_dead || !STORED -> 0 : BIT(page))
           :: (protected & BIT(page)) && registered == LOG -> /* marked; the store is tried again */
marked:        LIFT(page)
           :: (protected & BIT(page)) && registered == SYNC ->
blocked:       held[me] = UNREAD;
               at[me] = page;
               TELL()
           :: (protected & BIT(page)) && registered == NOBODY ->
               assert(false) /* nobody protects without registration */
           fi;
           page = 0
       }
#ifdef LIVENESS
    :: held[me] == FREE -> break
#endif
    od
}

/* ---- the watchdog ---- */
inline say(what) { /* EPIPE when main's end is closed */
    if
    :: !main_socket -> goto leave
    :: main_socket -> assert(len(socket) < ROOM); socket ! what
    fi
}
proctype Watchdog() provided (!dog_stopped) {
    byte p, page = PAGES;
    {
    atomic { DOG_WAITS() };
    do
#ifndef BREAK_WATCHDOG_STAYS
    :: !main_socket -> goto leave
#endif
    :: READABLE ->
#if !defined(BREAK_BEGIN_AFTER_READ) && !defined(BREAK_BEGIN_AFTER_LIFT)
       say(BEGIN);
#endif
       atomic { /* read(S): one message, any; EAGAIN if main was faster */
           if
           :: held[0] == UNREAD -> held[0] = READ; page = at[0]
           :: held[1] == UNREAD -> held[1] = READ; page = at[1]
           :: !READABLE ->
nothing_read:  skip
           fi
       }
#ifdef BREAK_BEGIN_AFTER_READ
       say(BEGIN);
#endif
       if
       :: page < PAGES ->
           d_step { LIFT(page) };
           wake(BIT(page));
           page = PAGES;
           EACH_PAGE(LIFT(p));
           wake(ALL);
lifted:    skip
       :: else
       fi;
#ifdef BREAK_BEGIN_AFTER_LIFT
       say(BEGIN);
#endif
       say(DONE);
       atomic { DOG_WAITS() }
    od;
leave:
    skip
    } unless { dog_dead -> skip };
    d_step { p = 0; page = PAGES };
    do
    :: d_step { dog_s -> dog_s = 0; close_s() }
    :: d_step { dog_socket -> dog_socket = 0 }
    :: !dog_s && !dog_socket -> break
    od
}

/* ---- main, with its consumer ---- */
#ifdef HOLDING
#define read_pages(pages) skip
#else
inline read_pages(pages) { EACH_PAGE(differs = differs & ~(BIT(p) & (pages))) }
#endif
#ifdef BREAK_NO_LIFT_AFTER_DONE
bit settled;
#define SETTLED(yes) settled = yes
#else
#define SETTLED(yes) skip
#endif
inline hear() { /* what has been said so far; never waits */
    do
    :: socket ? BEGIN -> owed = 1
    :: socket ? DONE -> owed = 0; SETTLED(1)
    :: !len(socket) -> break
    od
}

inline poll_s() {
    if
#ifndef BREAK_NOTHING_WHILE_S_FIRED
    :: S_WAKES_MAIN -> goto hand_over
    :: !S_WAKES_MAIN
#else
    :: true
#endif
    fi
}
inline poll_socket() {
    if
    :: len(socket) || EOF_WAKES_MAIN -> goto hand_over
    :: !len(socket) && !EOF_WAKES_MAIN
    fi
}

proctype Main() provided (!main_stopped) {
    byte p, hits, report;
    bit owed;    /* a BEGIN has not had its DONE */
    bit alone;   /* the watchdog is gone: never arm again */
    byte before; /* pages written when the question came, and that no log or event would tell of later */
    {

    EACH_PAGE(PROTECT(p));
    atomic { FLUSH() };
    read_pages(ALL);

rest:
    atomic { resting = 1; report = 0; before = 0; MAIN_WAITS() };
    if
    :: armed ->
        if
        :: true -> S_ENDS_WAITING || len(socket) || EOF_WAKES_MAIN
        :: true -> skip /* a user asks, whatever has fired */
        fi
    :: !armed -> skip
    fi;
    d_step { resting = 0; before = (armed -> differs : differs & open) };
    if
    :: armed -> goto ask
    :: !armed -> goto look
    fi;

ask: /* one poll, which looks at one descriptor after the other */
    if
    :: true -> poll_s(); poll_socket()
    :: true -> poll_socket(); poll_s()
    fi;
answered_nothing:
    assert(!before); /* what was written before the question is in the answer */
    goto rest;

hand_over:
    atomic { before = 0; SETTLED(0) };
    hear();
    if
    :: owed ->
        if
        :: len(socket) -> hear()
#ifndef BREAK_WAITS_FOR_DONE_FOREVER
        :: true ->
gave_up_on_done: skip
#endif
        :: END_MAIN -> skip
        fi
    :: !owed
    fi;
    if
    :: EOF_WAKES_MAIN -> alone = 1
    :: else
    fi;
#ifdef BREAK_READ_BEFORE_HAND_OVER
    read_pages(ALL);
#endif
#if !defined(BREAK_NO_LIFT_BEFORE_UNREGISTER) && !defined(BREAK_WAKE_AFTER_UNREGISTER)
#ifdef BREAK_NO_LIFT_AFTER_DONE
    if
    :: settled -> goto lifted_already
    :: else
    fi;
#endif
    EACH_PAGE(LIFT(p));
    wake(ALL);
#endif
lifted_already:
    unregister();
#ifdef BREAK_WAKE_AFTER_UNREGISTER
    d_step { free_writer(0); free_writer(1) }; /* UFFDIO_WAKE, which asks for no registration */
#endif
handed_over:
    registered = LOG;
    EACH_PAGE(PROTECT(p));
    atomic { FLUSH(); armed = 0 };
#if !defined(BREAK_NO_COMPARE_AFTER_HAND_OVER) && !defined(BREAK_READ_BEFORE_HAND_OVER)
    report = ALL;
#endif
    goto consume;

look: /* phase one, which only reads; then phase two around the hits, whose answer counts */
    EACH_PAGE(hits = hits | (BIT(p) & ~protected & ~open));
#ifdef BREAK_READ_BEFORE_LOG_PROTECT
    read_pages(hits);
#endif
    if
    :: hits ->
#ifdef BREAK_ANSWER_OF_PHASE_ONE
        report = hits;
#endif
        if
        :: true -> hits = ALL & ~open /* a gap was bridged */
        :: true -> skip
        fi;
#if defined(BREAK_ANSWER_OF_PHASE_ONE) || defined(BREAK_READ_BEFORE_LOG_PROTECT)
        EACH_PAGE(if :: hits & BIT(p) -> PROTECT(p) :: else fi);
#else
        EACH_PAGE(if :: hits & BIT(p) & ~protected -> report = report | BIT(p); PROTECT(p) :: else fi);
#endif
        atomic { FLUSH(); hits = 0 }
    :: !hits
    fi;
#ifndef BREAK_OPEN_TILE_UNREPORTED
    report = report | open;
#endif
    if
    :: true -> goto consume
    :: open -> goto close_tile
#ifndef HOLDING
    :: !open -> /* costs nothing */
opened:
        open = TILE;
        goto consume
#endif
#ifdef BREAK_ARM_WITHOUT_WATCHDOG
    :: true -> goto arm
#else
    :: !alone -> goto arm
#endif
    fi;

close_tile:
#ifdef BREAK_READ_BEFORE_TILE_PROTECT
    read_pages(TILE);
#endif
    EACH_PAGE(if :: BIT(p) & TILE -> PROTECT(p) :: else fi);
    atomic { FLUSH(); open = 0 };
#if defined(BREAK_TILE_CLOSED_UNREPORTED) || defined(BREAK_READ_BEFORE_TILE_PROTECT)
    report = report & ~TILE;
#else
    report = report | TILE;
#endif
    goto consume;

arm:
    hear();
    if
#ifdef BREAK_ARM_WITHOUT_WATCHDOG
    :: !owed
#else
    :: END_MAIN -> alone = 1; goto consume
    :: !END_MAIN && !owed
#endif
    :: owed ->
#ifndef BREAK_ARM_WITHOUT_DONE
        goto consume
#else
        skip
#endif
    fi;
#ifdef BREAK_READ_BEFORE_ARM
    read_pages(ALL);
#endif
    unregister();
    registered = SYNC;
    EACH_PAGE(PROTECT(p));
    atomic { FLUSH(); armed = 1 };
#if !defined(BREAK_NO_COMPARE_AFTER_ARM) && !defined(BREAK_READ_BEFORE_ARM)
    report = ALL;
#endif
    goto consume;

consume:
    assert(!(before & ~report)); /* what was written before the question is in the answer */
    before = 0;
    read_pages(report);
    goto rest
    } unless { main_dead -> /* the kernel closes what it held, one after the other, in any order */
        d_step {
            p = 0; hits = 0; report = 0; owed = 0; alone = 0; before = 0;
            armed = 0; open = 0; resting = 0; differs = 0
        };
        do
        :: d_step { main_a -> main_a = 0; close_a() }
        :: d_step { main_s -> main_s = 0; close_s() }
        :: d_step { main_socket -> main_socket = 0 }
        :: !main_a && !main_s && !main_socket -> break
        od
    }
}

/* ---- faults: each may happen once, at any moment, or not at all ----
 * Not when one of the two is stopped for ever: does the other die then, nobody is left to lift the protection until
 * the stopped one goes on or is killed too. */
#ifdef TWO_FAULTS
#define BEARABLE(condition) true
#else
#define BEARABLE(condition) (condition)
#endif
#define ALL_WELL (!main_dead && !dog_dead && !main_stopped && !dog_stopped)
proctype Fate() {
    do
#ifndef MAIN_LIVES
    :: atomic { !main_dead && BEARABLE(!dog_stopped) -> main_dead = 1; main_stopped = 0 }
#endif
    :: atomic { !dog_dead && BEARABLE(!main_stopped) -> dog_dead = 1; dog_stopped = 0 }
#ifdef LIVENESS
#ifndef MAIN_LIVES
    :: atomic { ALL_WELL -> main_stopped = 1 } /* for ever, or until it is killed */
#endif
    :: atomic { ALL_WELL -> dog_stopped = 1 }
    :: break
#endif
    od
}

init {
    atomic {
        run Main();
        run Watchdog();
        run Writer(0);
#ifndef ONE_WRITER
        run Writer(1);
#endif
        run Fate()
    }
}

/* ---- what is to hold ---- */
#define MAIN_GONE  (!main_a && !main_s && !main_socket)
#define DOG_GONE   (!dog_s && !dog_socket)
#define CLEAN      (registered == NOBODY && !protected && held[0] == FREE && held[1] == FREE)
#define IS_HELD    (held[0] != FREE || held[1] != FREE)
#define FIRED      (READABLE || len(socket) || !dog_socket)

/* Safety. While main rests every page that was written is one that its next look is bound to find (logged), or
 * something has fired (armed), and so if a writer is held. */
ltl safe {
    [] ((resting && !armed -> !(differs & protected & ~open) && !IS_HELD)
        && (resting && armed && (differs || IS_HELD) -> FIRED)
        && (MAIN_GONE && DOG_GONE -> CLEAN))
}
/* Liveness, under weak fairness: who can go on without end does. Writers 0 and 1 are alike. The tile that may be open
 * may also stay logged, so that it stands for all pages. */
ltl released { [] (held[0] != FREE -> <> (held[0] == FREE)) }
ltl seen { [] ((differs & TILE) -> <> !(differs & TILE)) }         /* with MAIN_LIVES */
ltl clean { [] (MAIN_GONE -> <> CLEAN) }
ltl unwatched { [] (DOG_GONE -> <> [] (registered != SYNC)) }      /* main alone does not stay armed */
