/* The hybrid tracker's protocol: collect, arm, wake up, hand over. See docs/protocol.md and spec/README.md.
 *
 * "Main" is vramtap's main process. A is the userfaultfd of the write log (asynchronous), S the full userfaultfd
 * (synchronous). An open tile is one that is reported at each scan without being protected.
 *
 * Abstractions, and why they lose nothing:
 *   Values.    A page's value is a version counter. Copy and memory are equal exactly if no write happened since the
 *              consumer's last read. So one bit per page, `differs`, is enough, and writers may write for ever.
 *   Pages.     A page is one location. The consumer reads two bytes of a page at two moments, but each byte has its own
 *              order of store, protection and read, and that order is modelled here.
 *   Time.      There is no time: every wait with a timeout may time out at once, and a process that is stopped for a
 *              while is one that the scheduler passes over. Only stopping for ever is modelled as a fault.
 *   Attach     and detach are not modelled: both descriptors, the watchdog and its socket exist at the start.
 *
 * The kernel is Linux 6.18. These facts were measured on it:
 *   UFFDIO_UNREGISTER lifts protection but does not wake a writer that is held by write protection.
 *   UFFDIO_WRITEPROTECT in mode 0 wakes the writers of its own descriptor. On a range without registration it fails
 *   and wakes no writer. It ignores which descriptor holds the registration: S lifts A's protection too.
 *
 * A macro -DBREAK_... breaks one rule of the protocol; tests/spec/test_hybrid_protocol.py breaks each of them. Other
 * macros select a part of the model, to keep the state space small:
 *   LIVENESS    for liveness claims: processes may stop for ever and writers may end. Leaves TLBs out.
 *   HOLDING     for held writers and remaining protection: leaves out the consumer and open tiles.
 *   MAIN_LIVES  main is never stopped or killed.
 *   ONE_WRITER  one writer instead of two.
 *   TWO_FAULTS  main or the watchdog may be stopped for ever while the other dies; the protocol does not cover that.
 */

#ifndef PAGES
#define PAGES 2
#endif
#define WRITERS 2
#define ROOM    8 /* words; the socket's buffer is far larger, and an assertion checks that 8 suffice */
#define ALL     ((1 << PAGES) - 1)
#define BIT(p)  (1 << (p))
#define TILE    BIT(PAGES - 1) /* the last page is a tile that may be open; the other pages stay logged */

mtype:owner = { NONE, LOG, SYNC };      /* the descriptor that the range is registered with: none, A, S */
mtype:hold  = { FREE, UNREAD, READ };   /* a writer: not held; held, its message unread; held, its message read */
mtype:word  = { BEGIN, DONE };          /* the watchdog's words to main */

/* ---- the kernel ---- */
mtype:owner registered = LOG;
byte protected;          /* protected pages; in A's epoch an unprotected page counts as written */
byte stale;              /* protected pages with unflushed TLB entries: a store may still succeed unseen */
mtype:hold held[WRITERS] = FREE;
byte at[WRITERS];        /* the page that each writer is held at; 0 when free */

/* Open descriptors. Only main has A. Main and watchdog have S. Each has one end of the socket. */
bit main_a = 1, main_s = 1, main_socket = 1;
bit dog_s = 1, dog_socket = 1;
chan socket = [ROOM] of { mtype:word };

/* ---- the consumer ---- */
#ifdef HOLDING
#define STORED 0
#else
#define STORED 1
#endif
byte differs = ALL * STORED; /* pages whose copy differs from memory; at the start there is no copy */

/* ---- faults, and the state of main: for the properties only ---- */
bit main_dead, main_stopped, dog_dead, dog_stopped;
bit resting;             /* main is not in collect, and its consumer has read the reported pages */
bit armed;               /* main's view of the epoch */
byte open;               /* main's open tiles */

#define READABLE  (held[0] == UNREAD || held[1] == UNREAD)
#define END_MAIN  (!dog_socket && !len(socket)) /* main reads end of file */

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

/* Whether S wakes main up, and whom the kernel notifies of a fault. With EPOLLEXCLUSIVE on both sides the kernel
 * notifies only one of them: the watchdog if it waits. */
#ifdef BREAK_MAIN_WAITS_EXCLUSIVELY
bit dog_waits, main_notified;
#define S_ENDS_WAITING main_notified
#define NOTIFY() main_notified = main_notified || !dog_waits || dog_stopped; dog_waits = 0
#define MAIN_WAITS()   main_notified = READABLE
#define DOG_WAITS()    dog_waits = !READABLE
#else
#define S_ENDS_WAITING S_WAKES_MAIN
#define NOTIFY()       skip
#define MAIN_WAITS()   skip
#define DOG_WAITS()    skip
#endif

/* ---- what the kernel does ----
 * Registering and unregistering are atomic. The other calls go page by page, and anything may happen in between. */
#define EACH_PAGE(action) \
    do \
    :: d_step { p < PAGES -> action; p++ } \
    :: d_step { p == PAGES -> p = 0 }; break \
    od
/* UFFDIO_WRITEPROTECT on one page, in mode WP and in mode 0: ENOENT without a registration */
#ifdef LIVENESS /* stale TLB entries only allow more stores, which hold no writer: leave them out */
#define MAY_BE_STALE 0
#else
#define MAY_BE_STALE 1
#endif
#define PROTECT(p) \
    stale = stale | (MAY_BE_STALE && registered != NONE && !(protected & BIT(p)) -> BIT(p) : 0); \
    protected = protected | (registered != NONE -> BIT(p) : 0)
#define LIFT(p) \
    protected = protected & ~BIT(p); \
    stale = stale & ~BIT(p)
inline free_writer(w) { held[w] = FREE; at[w] = 0 }
inline wake(pages) { /* at the end of UFFDIO_WRITEPROTECT, mode 0, if it did not fail */
    atomic {
        if
        :: registered != NONE && held[0] != FREE && (BIT(at[0]) & (pages)) -> free_writer(0)
        :: else
        fi;
        if
        :: registered != NONE && held[1] != FREE && (BIT(at[1]) & (pages)) -> free_writer(1)
        :: else
        fi
    }
}
#define FLUSH() stale = 0
inline unregister() { atomic { registered = NONE; protected = 0; stale = 0 } }
inline close_s() { /* after a process has closed its reference; the last one releases all */
    if
    :: !main_s && !dog_s ->
        free_writer(0);
        free_writer(1);
        if
        :: registered == SYNC -> registered = NONE; protected = 0; stale = 0
        :: else
        fi
    :: else
    fi
}
inline close_a() {
    if
    :: registered == LOG -> registered = NONE; protected = 0; stale = 0
    :: else
    fi
}

/* ---- a writer: stores to any page at any time, or stops storing ---- */
proctype Writer(byte me) {
    byte page;
    do
    :: atomic {
           held[me] == FREE -> select(page : 0 .. PAGES - 1);
           if
           :: !(protected & BIT(page)) || (stale & BIT(page)) ->
               differs = differs | (main_dead || !STORED -> 0 : BIT(page))
           :: (protected & BIT(page)) && registered == LOG -> /* marked; the writer retries the store */
marked:        LIFT(page)
           :: (protected & BIT(page)) && registered == SYNC ->
blocked:       held[me] = UNREAD;
               at[me] = page;
               NOTIFY()
           :: (protected & BIT(page)) && registered == NONE ->
               assert(false) /* there is no protection without registration */
           fi;
           page = 0
       }
#ifdef LIVENESS
    :: held[me] == FREE -> break
#endif
    od
}

/* ---- the watchdog ---- */
inline send(what) { /* EPIPE when main's end is closed */
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
       send(BEGIN);
#endif
       atomic { /* read(S): any one message; EAGAIN if main was faster */
           if
           :: held[0] == UNREAD -> held[0] = READ; page = at[0]
           :: held[1] == UNREAD -> held[1] = READ; page = at[1]
           :: !READABLE ->
nothing_read:  skip
           fi
       }
#ifdef BREAK_BEGIN_AFTER_READ
       send(BEGIN);
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
       send(BEGIN);
#endif
       send(DONE);
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
bit dog_done;
#define SET_DOG_DONE(yes) dog_done = yes
#else
#define SET_DOG_DONE(yes) skip
#endif
inline receive() { /* read all words received so far; never waits */
    do
    :: socket ? BEGIN -> owed = 1
    :: socket ? DONE -> owed = 0; SET_DOG_DONE(1)
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
    bit owed;    /* a BEGIN without its DONE */
    bit alone;   /* the watchdog has ended: never arm again */
    byte before; /* pages written before this collect that no later log or event would report */
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
        :: true -> skip /* a user calls collect at any time */
        fi
    :: !armed -> skip
    fi;
    d_step { resting = 0; before = (armed -> differs : differs & open) };
    if
    :: armed -> goto poll
    :: !armed -> goto scan
    fi;

poll: /* one poll(2), which checks one descriptor after the other */
    if
    :: true -> poll_s(); poll_socket()
    :: true -> poll_socket(); poll_s()
    fi;
answered_nothing:
    assert(!before); /* the answer contains every page written before collect */
    goto rest;

hand_over:
    atomic { before = 0; SET_DOG_DONE(0) };
    receive();
    if
    :: owed ->
        if
        :: len(socket) -> receive()
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
    :: dog_done -> goto lifted_already
    :: else
    fi;
#endif
    EACH_PAGE(LIFT(p));
    wake(ALL);
#endif
lifted_already:
    unregister();
#ifdef BREAK_WAKE_AFTER_UNREGISTER
    d_step { free_writer(0); free_writer(1) }; /* UFFDIO_WAKE, which needs no registration */
#endif
handed_over:
    registered = LOG;
    EACH_PAGE(PROTECT(p));
    atomic { FLUSH(); armed = 0 };
#if !defined(BREAK_NO_COMPARE_AFTER_HAND_OVER) && !defined(BREAK_READ_BEFORE_HAND_OVER)
    report = ALL;
#endif
    goto consume;

scan: /* phase one only reads; phase two protects around the hits, and its answer counts */
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
    :: !open -> /* opening makes no call */
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
    receive();
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
    assert(!(before & ~report)); /* the answer contains every page written before collect */
    before = 0;
    read_pages(report);
    goto rest
    } unless { main_dead -> /* the kernel closes its descriptors one after the other, in any order */
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
 * While one of the two processes is stopped for ever the other must not die: then no process would lift the protection
 * until the stopped one continues or is killed too. */
#ifdef TWO_FAULTS
#define COVERED(condition) true
#else
#define COVERED(condition) (condition)
#endif
#define ALL_WELL (!main_dead && !dog_dead && !main_stopped && !dog_stopped)
proctype Faults() {
    do
#ifndef MAIN_LIVES
    :: atomic { !main_dead && COVERED(!dog_stopped) -> main_dead = 1; main_stopped = 0 }
#endif
    :: atomic { !dog_dead && COVERED(!main_stopped) -> dog_dead = 1; dog_stopped = 0 }
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
        run Faults()
    }
}

/* ---- the properties ---- */
#define MAIN_GONE  (!main_a && !main_s && !main_socket)
#define DOG_GONE   (!dog_s && !dog_socket)
#define CLEAN      (registered == NONE && !protected && held[0] == FREE && held[1] == FREE)
#define IS_HELD    (held[0] != FREE || held[1] != FREE)
#define FIRED      (READABLE || len(socket) || !dog_socket)

/* Safety. While main rests unarmed, its next scan finds every written page, and no writer is held. While it rests armed
 * and a page was written or a writer is held, a descriptor has fired. At the end nothing is protected or held. */
ltl safe {
    [] ((resting && !armed -> !(differs & protected & ~open) && !IS_HELD)
        && (resting && armed && (differs || IS_HELD) -> FIRED)
        && (MAIN_GONE && DOG_GONE -> CLEAN))
}
/* Liveness, under weak fairness: a process that can always continue does continue. Writers 0 and 1 are alike. The tile
 * may also stay logged, so it stands for all pages. */
ltl released { [] (held[0] != FREE -> <> (held[0] == FREE)) }
ltl seen { [] ((differs & TILE) -> <> !(differs & TILE)) }         /* with MAIN_LIVES */
ltl clean { [] (MAIN_GONE -> <> CLEAN) }
ltl unwatched { [] (DOG_GONE -> <> [] (registered != SYNC)) }      /* without the watchdog main does not stay armed */
