//! Mutations on purpose: one line each, that the simulator's oracles must catch (invariants 2). Without the feature `canary`
//! [`is`] is a constant `false` and nothing of them is compiled; with it, a thread chooses at most one.

macro_rules! canaries {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Canary { $($(#[$doc])* $name,)* }

        impl Canary {
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

canaries! {
    /// Rules 2: the reply leaves when the batch is written.
    AckBeforeSync = "ack-before-sync",
    /// Rules 2: a failed sync counts as success when it is tried again.
    RetryFailedSync = "retry-failed-sync",
    /// Rules 4: undecided prewrites do not hold the watermark.
    WatermarkIgnoresWaiting = "watermark-ignores-waiting",
    /// Rules 2: a segment goes on where its last record ended, within the block.
    AppendInPartialBlock = "append-in-partial-block",
    /// Rules 2: the next batch is handed to the disk before the one before it is synced.
    OverlapNextBatch = "overlap-next-batch",
    /// Rules 2: recovery goes on in the segment that it found, behind the last batch that counts.
    AppendAfterCut = "append-after-cut",
    /// Rules 2: checksums and headers do not depend on the segment.
    SaltIgnored = "salt-ignored",
    /// Rules 2: the last batch found counts as durable.
    ServeUnprovenTail = "serve-unproven-tail",
    /// Rules 2: a segment with a header only counts as the newest.
    HeaderAsProof = "header-as-proof",
    /// Rules 1: a client's R decides.
    RIsVerdict = "r-is-verdict",
    /// Rules 1: a verdict acts without having been logged.
    VerdictNotLogged = "verdict-not-logged",
    /// Rules 1: absence is proven by a safe point that was read before TiKV answered.
    SafepointReadBeforeAnswer = "safepoint-read-before-answer",
    /// Rules 3: the undecided prewrites are not loaded at a start.
    DropUndecidedSet = "drop-undecided-set",
    /// Rules 3: a repeated prewrite of a decided transaction waits again.
    RequeueDecidedP = "requeue-decided-p",
    /// Rules 4: a fake takes its place when the timestamp is asked for.
    FrontierBeforeTsoRequest = "frontier-before-tso-request",
    /// Rules 4: places are given back when the index batch is sent: what it holds is inserted below the watermark.
    InsertBelowW = "insert-below-W",
    /// Rules 5: the item is P followed by all of C.
    AppendWholeC = "append-whole-c",
    /// Rules 5: entries that memory has dropped are taken for entries that never were.
    MemoryHidesGap = "memory-hides-gap",
    /// Rules 6: slots are freed before the log says so durably.
    RecycleBeforeGcRecord = "recycle-before-gc-record",
    /// Rules 6: segments are freed that the flushed index does not cover.
    FreeBeyondFlushedEnd = "free-beyond-flushed-end",
    /// Rules 6: prewrites are taken from the reserved space too.
    ReserveUsedByP = "reserve-used-by-p",
    /// Rules 6, trap T4: the prewrites of retained commits do not hold GC.
    GcWithoutPartner = "gc-without-partner",
    /// Rules 6: the checkpoints of Drainers do not hold GC.
    GcPastConsumer = "gc-past-consumer",
    /// Invariants G2: GC by age passes a Drainer's checkpoint and says nothing.
    GcPassesInSilence = "gc-passes-in-silence",
    /// R6: the registry is told of the newest commit that was accepted, not of the watermark.
    AdvertiseNewest = "advertise-newest",
    /// Trap T3: a stream below the GC point goes on from there.
    StreamJumpsToG = "stream-jumps-to-G",
    /// Rules 7: the membership is confirmed at a timestamp later than the listing.
    ListBeforeTso = "list-before-tso",
    /// Rules 7: a reconnect continues from the merge position.
    ReconnectFromEmitted = "reconnect-from-emitted",
    /// Rules 7: a source without an item does not hold the merge.
    MergeWithoutAllHeads = "merge-without-all-heads",
    /// Invariants N1: prewrites are accepted while the node pauses or closes.
    AcceptWhenPausing = "accept-when-pausing",
    /// Rules 4: a fake's timestamp is this host's idea of PD's clock.
    FakeFromWallClock = "fake-from-wall-clock",
    /// Rules 7: what comes below the merge position is dropped in silence; so that something does, the merge does not wait
    /// for the membership to be confirmed.
    MergeDropsLate = "merge-drops-late",
    /// Rules 7: a source leaves without having been received, and as soon as its Pump pauses.
    RemoveSourceEarly = "remove-source-early",
    /// Invariants C1: the checkpoint covers what was handed to the sink.
    CheckpointAtDispatch = "checkpoint-at-dispatch",
    /// Invariants V1: a completion is forgotten.
    LoseOneCompletion = "lose-one-completion",
}

/// Whether this mutation is active on this thread.
#[cfg(feature = "canary")]
#[must_use]
pub fn is(canary: Canary) -> bool {
    CHOSEN.get() == Some(canary)
}

#[cfg(not(feature = "canary"))]
#[inline(always)]
#[must_use]
pub const fn is(_: Canary) -> bool {
    false
}

/// The mutation of this thread from now on.
#[cfg(feature = "canary")]
pub fn choose(canary: Option<Canary>) {
    CHOSEN.set(canary);
}

#[cfg(feature = "canary")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Canary>> = const { std::cell::Cell::new(None) };
}
