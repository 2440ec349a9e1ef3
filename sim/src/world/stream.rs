//! Streams: FIFO links from a Pump to a reader (which judges them and does nothing else) or to the Drainer.

use super::event::Ev;
use super::pump::node_id;
use super::{MS, World};
use crate::trace::Weight;
use binlog_core::drainer::effect::SourceId;
use binlog_core::drainer::input::Input as DrainerIn;
use binlog_core::fault::Reject;
use binlog_core::ids::{CommitTs, NodeId, StreamId};
use binlog_core::proto::binlog::Binlog;
use binlog_core::pump::effect::StreamItem;
use binlog_core::pump::input::Input;
use bytes::Bytes;
use prost::Message;
use std::ops::Bound::Excluded;

#[derive(Debug)]
pub struct Stream {
    node: usize,
    /// Life of the Pump that serves it; 0: not arrived there yet.
    inc: u32,
    to: To,
    last: u64,
    credit: u64,
    /// Last timestamp that the Pump sent.
    sent: u64,
    /// The last delivery that is scheduled: order is kept.
    fifo: u64,
    ending: bool,
    /// It asked for what GC took.
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Reader,
    Drainer { inc: u32, source: SourceId },
}

impl World {
    pub(super) fn reader_open(&mut self, node: usize, inc: u32) {
        if self.pumps[node].inc != inc || self.pumps[node].proc.is_none() {
            return;
        }
        let rewind = self.rng.percent(10);
        let last = if rewind { 0 } else { self.pumps[node].reader };
        let credit = [200, 5_000, 1 << 20][self.rng.index(3)];
        self.open(Stream {
            node,
            inc: 0,
            to: To::Reader,
            last,
            credit,
            sent: last,
            fifo: 0,
            ending: false,
            refused: false,
        });
    }

    pub(super) fn open_source(&mut self, source: SourceId, pump: &NodeId, last: CommitTs, credit: u64) {
        let node = (0..self.pumps.len()).find(|n| node_id(*n) == *pump).unwrap_or(0);
        let to = To::Drainer { inc: self.drainer.inc, source };
        let last = last.raw();
        self.open(Stream { node, inc: 0, to, last, credit, sent: last, fifo: 0, ending: false, refused: false });
    }

    fn open(&mut self, stream: Stream) {
        self.next_stream += 1;
        self.streams.insert(self.next_stream, stream);
        let wait = self.latency();
        self.after(wait, Ev::PullArrives { stream: self.next_stream });
    }

    fn cut_until(&self, stream: &Stream) -> u64 {
        let pump = &self.pumps[stream.node];
        match stream.to {
            To::Reader => pump.clients_cut,
            To::Drainer { .. } => pump.drainer_cut,
        }
    }

    pub(super) fn pull_arrives(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (node, last, credit) = (stream.node, stream.last, stream.credit);
        let cut = self.cut_until(stream) > self.now;
        if cut || self.pumps[node].proc.is_none() {
            let wait = self.latency();
            self.after(wait, Ev::StreamClosed { stream: id, error: "connection refused".to_owned() });
            return;
        }
        let inc = self.pumps[node].inc;
        let drains = matches!(stream.to, To::Drainer { .. });
        let floor = self.pumps[node].proc.as_ref().map_or(0, |p| p.pump.gc_floor().raw());
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.inc = inc;
            // Everything but "what you hold" is refused below the GC point (hazard 1).
            stream.refused = last != 0 && last < floor;
        }
        if drains && last == 0 && self.plan.config.gc_age > 0 {
            // It has no checkpoint yet, and gets what there is: is something gone already?
            let gone = self.allocated.range(..=floor).any(|(_, a)| a.commits && a.pump == node);
            self.drainer.gap |= gone;
        }
        if self.pumps[node].watch.recovered && last > self.pumps[node].watch.published {
            self.note(|| "a stream asks beyond the watermark".to_owned());
        }
        let last = CommitTs::new(last);
        self.pump_input(
            node,
            inc,
            Input::PullOpen { stream: StreamId::new(id), cluster_id: super::client::CLUSTER, last, credit },
        );
    }

    /// S1, S2, W3, D3 at emission.
    pub(super) fn item_sent(&mut self, node: usize, stream: StreamId, item: StreamItem) {
        let StreamItem { start_ts, commit_ts, payload } = item;
        let ts = commit_ts.raw();
        self.trace.fold(ts);
        let payload: Bytes = if payload[1].is_empty() { payload[0].clone() } else { payload.concat().into() };
        let watermark = self.pumps[node].proc.as_ref().map_or(0, |p| p.pump.glance().watermark.raw());
        let floor = self.pumps[node].proc.as_ref().map_or(0, |p| p.pump.gc_floor().raw());
        let Some(own) = self.streams.get_mut(&stream.raw()) else { return };
        let mut before = std::mem::replace(&mut own.sent, ts);
        if before == 0 {
            // "What you hold" begins at the GC point.
            before = floor.min(ts - 1);
        }
        if own.refused {
            let last = own.last;
            self.violate(
                "S3",
                format!("pump {node} serves {ts} to a stream that asked for {last}, below the GC point"),
            );
            return;
        }
        if ts <= before || ts > watermark {
            self.violate("S1", format!("pump {node} sends {ts} after {before}, its watermark is {watermark}"));
            return;
        }
        let skipped = self.allocated.range((Excluded(before), Excluded(ts))).find(|(_, a)| a.commits && a.pump == node);
        if let Some((gap, a)) = skipped {
            let text = format!("pump {node} sends {ts} after {before} and leaves out {gap} of txn {}", a.txn);
            self.violate("S2", text);
            return;
        }
        if !Self::is_fake(&payload, ts) {
            let judged = self.judge_item(node, start_ts, ts, &payload);
            self.judge(judged);
            let judged = self.pumps[node].shown.item(start_ts.cast_unsigned(), ts);
            self.judge(judged);
        }
        let cut = self.streams.get(&stream.raw()).map_or(0, |s| self.cut_until(s));
        let at = (self.now + self.latency()).max(cut);
        let Some(own) = self.streams.get_mut(&stream.raw()) else { return };
        own.fifo = at.max(own.fifo + 1);
        let at = own.fifo;
        self.events.push(at, Ev::StreamItem { stream: stream.raw(), payload, commit_ts });
    }

    fn judge_item(&self, node: usize, start_ts: i64, ts: u64, payload: &[u8]) -> Result<(), (&'static str, String)> {
        // W4: by its client's C, or by a verdict about a prewrite that its client sent here too.
        let own = |start: u64| match &self.tidb {
            Some(tidb) => tidb.was_sent_to(start, node),
            None => self.client.of_start(start).is_some_and(|txn| txn.is_committed() && txn.was_sent_to(node)),
        };
        let known = self.allocated.get(&ts).filter(|a| a.commits && own(a.start_ts));
        let Some(a) = known else {
            return Err(("D3", format!("pump {node} sends {ts}, which nobody committed through it")));
        };
        let mut want = Binlog::decode(a.p.clone()).unwrap_or_default();
        (want.tp, want.commit_ts) = (1, ts.cast_signed());
        let got = Binlog::decode(payload).ok();
        if got.as_ref() != Some(&want) || start_ts.cast_unsigned() != a.start_ts {
            return Err(("W3", format!("pump {node} sends for {ts} another value than its client wrote: {got:?}")));
        }
        Ok(())
    }

    pub(super) fn stream_ended(&mut self, node: usize, stream: StreamId, result: Result<(), Reject>) {
        let Some(own) = self.streams.get_mut(&stream.raw()) else { return };
        own.ending = true;
        let at = own.fifo.max(self.now) + 100_000;
        let error = result.map_or_else(|reject| reject.to_string(), |()| String::new());
        // GC waits for the Drainer, unless it goes by age, and never for a reader.
        let waits = matches!(own.to, To::Drainer { .. }) && self.plan.config.gc_age == 0;
        let below_gc = !waits && self.plan.config.gc_ms > 0 && error.contains(BELOW_GC);
        let expected = error.is_empty()
            || below_gc
            || error.contains("injected")
            || error.contains("no such segment")
            || error.contains("shutting down")
            || error.contains("busy")
            || self.pumps[node].rotten;
        if !expected {
            self.violate("S3", format!("pump {node} ends a stream: {error}"));
        }
        self.events.push(at, Ev::StreamClosed { stream: stream.raw(), error });
    }

    pub(super) fn stream_item(&mut self, id: u64, payload: Bytes, commit_ts: CommitTs) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (node, inc) = (stream.node, stream.inc);
        match stream.to {
            To::Reader => {
                let pump = &mut self.pumps[node];
                pump.reader = pump.reader.max(commit_ts.raw());
                let input = Input::PullCredit { stream: StreamId::new(id), bytes: payload.len() as u64 };
                let wait = self.latency();
                self.after(wait, Ev::PumpInput { node, inc, input: Box::new(input) });
            }
            To::Drainer { inc, source } => {
                self.drainer.heads.shows(inc, node, commit_ts.raw());
                self.drainer_input(inc, DrainerIn::SourceItem { source, payload });
            }
        }
    }

    pub(super) fn stream_closed(&mut self, id: u64, error: String) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let Stream { node, inc, .. } = stream;
        if inc != 0 && !stream.ending {
            let input = Input::PullClosed { stream: StreamId::new(id) };
            self.after(100_000, Ev::PumpInput { node, inc, input: Box::new(input) });
        }
        match stream.to {
            To::Reader => {
                if error.contains(BELOW_GC) {
                    self.note(|| "reader below the GC point".to_owned());
                    self.pumps[node].reader = 0;
                }
                let wait = 50 + self.rng.below(200);
                let inc = self.pumps[node].inc;
                self.after(wait * MS, Ev::ReaderOpen { node, inc });
            }
            To::Drainer { inc, source } => {
                let error = (!error.is_empty()).then_some(error);
                self.drainer_input(inc, DrainerIn::SourceClosed { source, error });
            }
        }
    }

    pub(super) fn grant(&mut self, source: SourceId, bytes: u64) {
        let own = |s: &Stream| matches!(s.to, To::Drainer { source: o, inc } if o == source && inc == self.drainer.inc);
        let Some((id, stream)) = self.streams.iter_mut().find(|(_, s)| own(s)) else { return };
        if stream.inc == 0 {
            stream.credit = stream.credit.saturating_add(bytes);
            return;
        }
        let (id, node, inc) = (*id, stream.node, stream.inc);
        let wait = self.latency();
        let input = Input::PullCredit { stream: StreamId::new(id), bytes };
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(input) });
    }

    pub(super) fn close_source(&mut self, source: Option<SourceId>) {
        let drainer = self.drainer.inc;
        let own = |s: &Stream| match s.to {
            To::Drainer { source: o, inc } => source.is_none_or(|source| o == source && inc == drainer),
            To::Reader => false,
        };
        let ids: Vec<u64> = self.streams.iter().filter(|(_, s)| own(s)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(Stream { node, inc, .. }) = self.streams.remove(&id) else { continue };
            if inc != 0 {
                let wait = self.latency();
                let input = Input::PullClosed { stream: StreamId::new(id) };
                self.after(wait, Ev::PumpInput { node, inc, input: Box::new(input) });
            }
        }
    }

    /// The Pump's process is gone, or all its connections are reset: whoever listens learns it.
    pub(super) fn drop_streams_of(&mut self, node: usize) {
        let ids: Vec<u64> = self.streams.iter().filter(|(_, s)| s.node == node).map(|(id, _)| *id).collect();
        for id in ids {
            let wait = self.latency();
            let at = (self.now + wait).max(self.streams.get(&id).map_or(0, |s| s.fifo));
            // What is under way may arrive or not.
            let at = if self.rng.percent(50) { at } else { self.now + 1 };
            self.events.push(at, Ev::StreamClosed { stream: id, error: "connection reset".to_owned() });
        }
        self.line(Weight::Full, format_args!("pump-{node}"), || "its streams are reset".to_owned());
    }

    /// Where the slowest reader is.
    pub(super) fn readers_reached(&self, target: u64) -> bool {
        self.plan.config.readers == 0 || self.pumps.iter().all(|p| p.rotten || p.reader >= target)
    }
}

/// Part of the refusal of a stream that asks for what GC took.
pub(super) const BELOW_GC: &str = "purged binlog TS";
