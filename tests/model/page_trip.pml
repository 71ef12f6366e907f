/* The page's trip as a model: who may claim, install, receive, wake and discard, in which order,
 * and what the guest sees. README.md says what is modelled, what is left out and how to read the
 * output; `check` runs it.
 *
 * One step of a process is one thing that other threads can see in between: a bit changed, an
 * ioctl, a wake. What stands in atomic { } is one step because the kernel, or an atomic
 * instruction, makes it one.
 *
 * BREAK_x spoils one rule; the search must then find an error. ALSO_x is another shape that must
 * be right, too. */

#ifndef PAGES
#define PAGES 1
#endif
#ifndef CONTENT
#define CONTENT 1 /* pages [0, CONTENT) have content in the file, the others are zero */
#endif
#ifndef GUESTS
#define GUESTS 2
#endif
#ifndef TOUCHES
#define TOUCHES 2 /* of each guest thread */
#endif
#ifndef DISCARDERS
#define DISCARDERS 1
#endif
#ifndef DISCARDS
#define DISCARDS 1 /* of each discarder */
#endif
#ifndef EAGER
#define EAGER 1 /* eager threads; 0 is a load on demand only */
#endif
#define BATCH 2 /* the most faults of one read */

#ifdef BROKEN
#define own_assert(x) skip
#else
#define own_assert(x) assert(x)
#endif

#ifdef BREAK_RECEIVED_IS_CLAIM
#define claimed received
#endif

/* ---- The loader's own state: RamBlock, InstallGate. */

bit nonzero[PAGES];
#ifndef BREAK_RECEIVED_IS_CLAIM
bit claimed[PAGES];
#endif
bit received[PAGES];
bit poisoned[PAGES]; /* set before received, never cleared */
bit kept[PAGES];     /* lost, and claimed by the fault thread until the reason is told */
byte remaining = CONTENT;
byte inside, closers; /* the gate */
bit stop;             /* the fault thread is to end */
byte running = 1 + EAGER;

/* ---- The kernel. */

mtype = { ABSENT, SNAPSHOT, ZERO, WRITTEN, POISON };
mtype at[PAGES];      /* what is mapped there */
bit registered = 1;   /* a fault on an absent page is ours to answer */
bit closed;           /* the descriptor is */
byte changing;        /* mmap_changing: while it is not 0, every install answers EAGAIN */

/* Of a thread's fault or REMOVE event; a thread that is not awake sleeps. */
mtype = { AWAKE, UNREAD, READ };
mtype fault[GUESTS];
byte fault_page[GUESTS];
mtype removal[DISCARDERS];
byte removal_page[DISCARDERS];

mtype = { DONE, EXISTS, AGAIN, GONE }; /* what an installing ioctl says */

/* ---- What the guest may see, and what has happened; read by assertions only. */

/* SNAPSHOT, or POISON in its place: not discarded, written or seen as ZERO so far. */
bit may_be_old[PAGES];
bit may_be_zero[PAGES]; /* ZERO: no content in the file, or discarded, and not written since */
bit installed[PAGES];   /* SNAPSHOT was */
bit unreadable[PAGES];  /* the file does not give it, now or ever */
bit failed[PAGES];      /* and somebody noticed */

#define UNREAD_FAULT(g) (fault[g] == UNREAD)
#if GUESTS == 1
#define ANY_FAULT UNREAD_FAULT(0)
#else
#define ANY_FAULT (UNREAD_FAULT(0) || UNREAD_FAULT(1))
#endif
#if DISCARDERS == 0
#define ANY_REMOVE false
#elif DISCARDERS == 1
#define ANY_REMOVE (removal[0] == UNREAD)
#else
#define ANY_REMOVE (removal[0] == UNREAD || removal[1] == UNREAD)
#endif

/* ---- ioctls. */

/* Poison is no protection: Linux 6.18 zeroes a poisoned page of shared memory, and copies over one
 * of private memory. */
#define TAKES(page, what) (at[page] == ABSENT || (at[page] == POISON && what != POISON))

/* UFFDIO_COPY, ZEROPAGE and POISON, all with DONTWAKE. */
inline Install(page, what, result) {
  atomic {
    if
    :: !registered -> result = GONE
    :: registered && changing > 0 -> result = AGAIN
    :: registered && changing == 0 && !TAKES(page, what) -> result = EXISTS
    :: registered && changing == 0 && TAKES(page, what) ->
       result = DONE;
       at[page] = what;
       if
       :: what == SNAPSHOT ->
          assert(!installed[page]);  /* at most once */
          assert(may_be_old[page]); /* never after a discard, a write or a zero seen */
          installed[page] = 1
       :: else
       fi
    fi
  }
}

/* Whoever sleeps on the page runs on, and looks again. A fault that nobody has read is gone. */
inline Wake(page) {
  d_step {
    wg = 0;
    do
    :: wg < GUESTS ->
       if
       :: fault[wg] != AWAKE && fault_page[wg] == page -> fault[wg] = AWAKE
       :: else
       fi;
       wg++
    :: else -> break
    od;
    wg = 0
  }
}

/* ---- InstallGate. */

inline Enter() { atomic { closers == 0 -> inside++ } }
inline Leave() { inside-- }
#ifdef BREAK_NO_GATE
inline Close() { skip }
inline Open() { skip }
#else
inline Close() { closers++; inside == 0 }
inline Open() { closers-- }
#endif

/* ---- RamBlock. */

inline Claim(page, won) { atomic { won = !claimed[page]; claimed[page] = 1 } }

/* (gate) */
inline Unclaim(page) {
  own_assert(!received[page]);
  claimed[page] = 0
}

/* One of `remaining` less if the page had content to be received. */
inline Settle(lost) {
  atomic {
    if
    :: lost -> own_assert(remaining > 0); remaining--
    :: else
    fi;
    lost = 0
  }
}

/* (gate) */
inline MarkReceived(page, what) {
  poisoned[page] = poisoned[page] || what == POISON;
  lost = nonzero[page];
  received[page] = 1;
  Settle(lost)
}

/* The gate is closed, but others may note their own discards at the same time. So whoever sets
 * `received` counts, and the content is looked at before and cleared after it. The fault thread
 * may look at any moment: `claimed` comes last, for who finds it set and `received` not takes the
 * page for one in flight, and there is nobody who would wake him. */
inline Discard(page) {
#if defined(BREAK_DISCARD_CLAIMS_FIRST)
  claimed[page] = 1;
#endif
  lost = nonzero[page];
  if
  :: lost ->
#if defined(BREAK_DISCARD_COUNT)
     atomic { lost = nonzero[page]; nonzero[page] = 0 };
     atomic { lost = lost && !received[page]; received[page] = 1 };
#elif defined(BREAK_DISCARD_UNRECEIVED)
     atomic { lost = nonzero[page] && !received[page]; nonzero[page] = 0 };
#else
     atomic { lost = lost && !received[page]; received[page] = 1 };
     nonzero[page] = 0;
#endif
     claimed[page] = 1
  :: else
  fi;
  Settle(lost)
}

/* ---- Guest threads: touch a page, look at it, perhaps write to it. */

proctype Guest(byte me) {
  byte left = TOUCHES;
  byte page;
  do
  :: left > 0 ->
     atomic {
       left--;
       if
       :: page = 0
#if PAGES > 1
       :: page = 1
#endif
       fi
     }
     do
     :: atomic {
          registered && at[page] == ABSENT -> fault[me] = UNREAD; fault_page[me] = page
        }
        fault[me] == AWAKE /* a lost wake is a deadlock here: this is no valid place to end */
     :: atomic {
          !(registered && at[page] == ABSENT) ->
          if
          :: at[page] == ABSENT -> at[page] = ZERO /* the kernel's own answer */
          :: else
          fi;
          if
          :: at[page] == SNAPSHOT -> assert(may_be_old[page])
          :: at[page] == ZERO -> assert(may_be_zero[page]); may_be_old[page] = 0
          :: at[page] == POISON -> assert(failed[page] && may_be_old[page])
          :: at[page] == WRITTEN
          fi;
          if
          :: at[page] != POISON ->
             at[page] = WRITTEN; may_be_old[page] = 0; may_be_zero[page] = 0
          :: true
          fi;
          break
        }
     od
  :: else -> break
  od
}

/* ---- Whoever discards. madvise(MADV_DONTNEED) is announced by an event. A hole punched into
 * shared memory is not: its thread calls Discard() itself before. */

proctype Discarder(byte me) {
  byte left = DISCARDS;
  byte page, wg;
  bit lost;
  do
  :: left > 0 ->
     atomic {
       left--;
       if
       :: page = 0
#if PAGES > 1
       :: page = 1
#endif
       fi
     }
     if
     :: atomic {
          registered -> changing++; may_be_zero[page] = may_be_zero[page] || at[page] != WRITTEN
        };
        atomic { removal_page[me] = page; removal[me] = UNREAD };
        atomic { removal[me] == READ || closed -> removal[me] = AWAKE };
        changing--
     :: atomic { !registered -> may_be_zero[page] = 1 }
#ifndef NO_PUNCH
     :: registered ->
        may_be_zero[page] = may_be_zero[page] || at[page] != WRITTEN;
        Close();
        Discard(page);
        Open()
#endif
     fi;
     /* Only now, maybe much later, does the kernel drop the page. */
     atomic { at[page] = ABSENT; may_be_old[page] = 0; may_be_zero[page] = 1 }
  :: else -> break
  od
}

/* ---- FaultThread, PageLoader::LoadFaulted. */

/* A parked fault stands for whoever sleeps on its page, so two are as good as more. */
inline Park(page) { parked[page] = (parked[page] < 2 -> parked[page] + 1 : 2) }

#ifdef WINDOW_ON_FAULT
/* PageLoader::LoadFaultedHuge, of a page that stands for its window: claimed, read, moved or given
 * back. `whole`: the fault is dealt with. */
inline ServeWhole(page) {
  Claim(page, won);
  if
  :: !won
  :: won ->
     what = ABSENT;
     if
     :: nonzero[page] -> /* the read; who cannot read it leaves it to Serve() to say so */
        atomic {
          if
          :: unreadable[page]
          :: else -> what = SNAPSHOT
          fi
        }
     :: else -> what = ZERO
     fi;
     Enter();
     if
     :: what == ABSENT || received[page] -> result = AGAIN
     :: else -> Install(page, what, result)
     fi;
     if
     :: result == DONE -> MarkReceived(page, what); whole = 1
     :: result != DONE && !received[page] -> Unclaim(page)
     :: else
     fi;
     Leave();
#ifdef BREAK_WINDOW_SILENT
     skip
#else
     Wake(page)
#endif
  fi;
  atomic { won = 0; what = ABSENT; result = DONE }
}
#endif

inline Serve(page) {
  if
  :: kept[page] -> won = 1 /* GiveUp(): lost before, and the reason is told by now */
  :: else -> Claim(page, won)
  fi;
  if
  :: !won ->
     if
     :: received[page] ->
        if
#ifndef BREAK_ZERO_OVER_POISON
        :: poisoned[page] && nonzero[page] ->
           Wake(page) /* a stale fault; only a discard makes zeros of poison */
#endif
        :: else ->
           Install(page, ZERO, result);
           if
           :: result == AGAIN -> Park(page)
           :: else -> Wake(page)
           fi
        fi
     :: else /* in flight: the claimant's wake will come */
     fi
  :: won ->
     what = ZERO;
     if
     :: kept[page] -> what = POISON; kept[page] = 0
     :: !kept[page] && nonzero[page] -> /* the read, outside the gate */
        atomic {
          if
          :: unreadable[page] ->
             failed[page] = 1; what = POISON;
             if
             :: skip           /* told already, or nobody tells */
             :: kept[page] = 1 /* others are served until it is told */
             fi
          :: else -> what = SNAPSHOT
          fi
        }
     :: else
     fi;
     if
     :: kept[page] -> Park(page) /* it stays claimed */
     :: !kept[page] -> Settling(page)
     fi
  fi;
  atomic { won = 0; what = ABSENT; result = DONE }
}

/* From the read, or the loss, of a claimed page to its wake. */
inline Settling(page) {
#ifdef BREAK_WAIT_ON_AGAIN
     skip; /* no label may come first */
again:
#endif
     Enter();
     if
     :: what == POISON && received[page] -> result = DONE /* discarded meanwhile: zero */
     :: else ->
#ifndef BREAK_FAULT_BLIND
        if
        :: what == SNAPSHOT && !nonzero[page] -> what = ZERO
        :: else
        fi;
#endif
#ifdef BREAK_ZERO_FOR_UNREADABLE
        if
        :: what == POISON -> what = ZERO
        :: else
        fi;
#endif
        Install(page, what, result);
#ifdef ALSO_WAKE_AT_ONCE
        if
        :: result == DONE -> Wake(page)
        :: else
        fi;
#endif
        if
        :: received[page] /* discarded while it was in flight */
        :: else ->
           if
           :: result == AGAIN && what == POISON -> kept[page] = 1
           :: result == AGAIN && what != POISON ->
#ifndef BREAK_WAIT_ON_AGAIN
              Unclaim(page)
#else
              skip
#endif
           :: else ->
              own_assert(result != EXISTS); /* nobody else puts anything there */
              MarkReceived(page, what)
           fi
        fi
     fi;
     Leave();
     if
#ifdef BREAK_WAIT_ON_AGAIN
     :: result == AGAIN -> changing == 0; goto again
#else
     :: result == AGAIN -> Park(page) /* no wake: its fault is in our hands */
#endif
     :: else ->
#ifdef ALSO_WAKE_AT_ONCE
        if
        :: result != DONE -> Wake(page)
        :: else
        fi
#else
        Wake(page)
#endif
     fi
}

#ifdef WINDOW_ON_FAULT
inline Answer(page) {
  ServeWhole(page);
  if
  :: whole -> whole = 0
  :: else -> Serve(page)
  fi
}
#else
#define Answer(page) Serve(page)
#endif

proctype FaultThread() {
  byte batch[PAGES];    /* faults read or to be tried again, not served yet */
  byte parked[PAGES];
  bit removes[PAGES];   /* read, not noted yet */
  byte count, page, wg;
  bit won, lost;
#ifdef WINDOW_ON_FAULT
  bit whole;
#endif
  mtype what, result;
end:
  do
  :: stop -> break
  :: !stop && (ANY_FAULT || ANY_REMOVE) ->
     Close();
     /* One read(2). It takes one message after the other, and whoever it frees runs meanwhile. */
     do
     :: atomic {
          count < BATCH && fault[0] == UNREAD ->
          fault[0] = READ; batch[fault_page[0]]++; count++
        }
#if GUESTS > 1
     :: atomic {
          count < BATCH && fault[1] == UNREAD ->
          fault[1] = READ; batch[fault_page[1]]++; count++
        }
#endif
#if DISCARDERS > 0
     :: atomic { removal[0] == UNREAD -> removal[0] = READ; removes[removal_page[0]] = 1 }
#endif
#if DISCARDERS > 1
     :: atomic { removal[1] == UNREAD -> removal[1] = READ; removes[removal_page[1]] = 1 }
#endif
     :: atomic {
          count > 0 || removes[0] || removes[PAGES - 1] || !(ANY_FAULT || ANY_REMOVE) ->
          count = 0;
          break
        }
     od;
     do
     :: removes[0] -> Discard(0); removes[0] = 0
#if PAGES > 1
     :: removes[1] -> Discard(1); removes[1] = 0
#endif
     :: else -> break
     od;
     Open();
     goto serve
  /* Trying again while the mapping changes would answer EAGAIN again: the timer goes off later. */
  :: !stop && changing == 0 && (parked[0] > 0 || parked[PAGES - 1] > 0) ->
     d_step {
       page = 0;
       do
       :: page < PAGES -> batch[page] = parked[page]; parked[page] = 0; page++
       :: else -> break
       od;
       page = 0
     }
serve:
     do
     :: atomic { batch[0] > 0 -> batch[0]--; page = 0 }; Answer(page)
#if PAGES > 1
     :: atomic { batch[1] > 0 -> batch[1]--; page = 1 }; Answer(page)
#endif
     :: else -> break
     od;
  od;
  running--
}

/* ---- EagerThread, PageLoader::LoadAhead, a page at a time. */

proctype EagerThread() {
  byte page, wg;
  bit won, lost;
  mtype what, result;
  do
  :: page == CONTENT -> break
  :: page < CONTENT ->
     if
     :: nonzero[page] ->
        if
        :: !claimed[page] -> skip
        :: else -> goto next
        fi
     :: else -> goto next
     fi;
#if defined(BREAK_CLAIM_EARLY) || defined(CLAIM_BEFORE_READ)
     Claim(page, won);
     if
     :: !won -> goto next
     :: else
     fi;
#endif
     atomic { /* the read, unclaimed */
       if
       :: unreadable[page] -> failed[page] = 1; what = POISON
       :: else -> what = SNAPSHOT
       fi
     }
again:
     Enter();
#if defined(CLAIM_BEFORE_READ)
     if
     :: !won -> Claim(page, won) /* the second time, as any other */
     :: won && received[page] -> /* discarded since it was claimed */
        Leave();
        Wake(page);
        goto next
     :: else
     fi;
#elif !defined(BREAK_CLAIM_EARLY)
     Claim(page, won);
#endif
#ifdef BREAK_NO_SECOND_LOOK
     won = 1;
#endif
     if
     :: !won -> Leave(); goto next /* somebody else has it, or it was discarded */
     :: else
     fi;
     own_assert(nonzero[page]); /* whoever clears it has claimed the page for ever */
#ifdef BREAK_HOLD_GATE
hold:
#endif
     Install(page, what, result);
#ifdef BREAK_HOLD_GATE
     if
     :: result == AGAIN -> changing == 0; goto hold
     :: else
     fi;
#endif
#ifdef ALSO_WAKE_AT_ONCE
     if
     :: result == DONE -> Wake(page)
     :: else
     fi;
#endif
     if
     :: result == AGAIN ->
#if !defined(BREAK_CLAIM_EARLY) && !defined(BREAK_UNCLAIM_LATE)
        Unclaim(page);
        won = 0;
#endif
        Leave();
#ifdef BREAK_UNCLAIM_LATE
        Unclaim(page);
#endif
#ifndef BREAK_UNCLAIM_SILENT
        Wake(page); /* faults were dropped while the page was claimed */
#endif
        changing == 0; /* patience */
        goto again
     :: else ->
        own_assert(result != EXISTS); /* nobody else puts anything there */
#ifdef BREAK_RECEIVE_LATE
        Leave();
        if
        :: !received[page] -> MarkReceived(page, what)
        :: else
        fi;
#else
        own_assert(!received[page]);
        MarkReceived(page, what);
        Leave();
#endif
#if defined(BREAK_NO_WAKE)
        skip
#elif defined(ALSO_WAKE_AT_ONCE)
        if
        :: result != DONE -> Wake(page)
        :: else
        fi
#else
        Wake(page)
#endif
     fi;
next:
     atomic { page++; won = 0; lost = 0; what = ABSENT; result = DONE }
  od;
  running--
}

/* ---- SnapshotLoader: takes itself out of the way when everything is received, or never does.
 * Never, because unregistering wakes everybody and would hide a lost wake; and an owner may well
 * wait for long before it detaches. */

#ifdef BREAK_CLOSE_AT_CLAIM
#define COMPLETE (claimed[0] && claimed[CONTENT - 1])
#else
#define COMPLETE (remaining == 0)
#endif

proctype Loader() {
  byte page;
  if
  :: goto done
  :: true
  fi;
#ifdef CAN_STALL
end:
#endif
  COMPLETE;
#ifdef BREAK_CLOSE_AT_CLAIM
  skip;
#else
  running == 1; /* the eager threads are joined */
#endif
  d_step {
    registered = 0;
    do
    :: page < CONTENT -> /* nothing is owed */
       own_assert(received[page]);
       page++
    :: else -> break
    od;
    page = 0;
    do
    :: page < GUESTS -> fault[page] = AWAKE; page++
    :: else -> break
    od;
    page = 0
  }
  stop = 1;
#ifdef BREAK_CLOSE_AT_CLAIM
  skip;
#else
  running == 0;
#endif
  closed = 1;
done:
  skip
}

init {
  byte i;
  atomic {
    do
    :: i < PAGES ->
       at[i] = ABSENT;
       nonzero[i] = (i < CONTENT);
       may_be_old[i] = (i < CONTENT);
       may_be_zero[i] = (i >= CONTENT);
       if
       :: i < CONTENT -> unreadable[i] = 1
       :: true
       fi;
       i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < GUESTS -> fault[i] = AWAKE; run Guest(i); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < DISCARDERS -> removal[i] = AWAKE; run Discarder(i); i++
    :: else -> break
    od;
    run FaultThread();
    i = 0;
    do
    :: i < EAGER -> run EagerThread(); i++
    :: else -> break
    od;
    run Loader()
  }
}
