//! Timestamps over PD's bidirectional stream: one task owns the stream and asks for all waiting callers at once.
//!
//! Keeps true:
//! * a caller's timestamp was allocated after the caller asked: who asks while a request is under way waits for the next one;
//! * a reply belongs to the request it answers: one request is in flight per stream, and a stream whose reply is late or
//!   odd is thrown away;
//! * every caller is answered within [`TSO_TIMEOUT`].

use super::members::Members;
use super::{ATTEMPTS, HasHeader, RETRY_FIRST, RETRY_MAX, TSO_TIMEOUT, check_header, request_header, timeout};
use crate::error::PdError;
use binlog_core::proto::pdpb;
use binlog_core::time::Tso;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Callers' end; the task ends when the last one is dropped.
pub(super) struct Handle {
    calls: mpsc::Sender<Call>,
    /// When a slow timestamp was said last.
    said: Mutex<Option<Instant>>,
}

struct Call {
    deadline: Instant,
    reply: oneshot::Sender<Result<Tso, PdError>>,
}

/// A timestamp that took longer is said (spec pump 4.3), not more often than [`SAY_EVERY`].
const SLOW: Duration = Duration::from_millis(30);
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Callers that may wait before the next one has to queue outside. Far above what one process has in flight.
const QUEUE: usize = 4096;
/// Largest count of one request: PD refuses what does not fit into the 18 logical bits.
const MAX_BATCH: usize = 4096;

impl Handle {
    pub async fn get(&self) -> Result<Tso, PdError> {
        let begun = Instant::now();
        let result = self.ask(begun + TSO_TIMEOUT).await;
        let took = begun.elapsed();
        if took > SLOW && result.is_ok() && self.may_say() {
            tracing::warn!("cost time" = ?took, "get timestamp too slow");
        }
        result
    }

    fn may_say(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if may {
            *said = Some(Instant::now());
        }
        may
    }

    async fn ask(&self, deadline: Instant) -> Result<Tso, PdError> {
        let (reply, answer) = oneshot::channel();
        match tokio::time::timeout_at(deadline, self.calls.send(Call { deadline, reply })).await {
            Err(_) => return Err(timeout("Tso", TSO_TIMEOUT, None)),
            Ok(Err(_)) => return Err(PdError::Closed),
            Ok(Ok(())) => {}
        }
        // The task itself keeps the deadline, and knows why it failed.
        answer.await.unwrap_or(Err(PdError::Closed))
    }
}

pub(super) fn spawn(members: Arc<Members>) -> Handle {
    let (calls, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(run(members, inbox));
    Handle { calls, said: Mutex::default() }
}

async fn run(members: Arc<Members>, mut inbox: mpsc::Receiver<Call>) {
    let mut stream: Option<Open> = None;
    let mut batch: Vec<Call> = Vec::new();
    loop {
        // An idle stream is watched too: a leader that went away is noticed before the next caller comes.
        let count = match &mut stream {
            None => inbox.recv_many(&mut batch, MAX_BATCH).await,
            Some(open) => tokio::select! {
                biased;
                count = inbox.recv_many(&mut batch, MAX_BATCH) => count,
                _ = open.replies.message() => {
                    stream = None;
                    continue;
                }
            },
        };
        if count == 0 {
            return;
        }
        serve(&members, &mut stream, std::mem::take(&mut batch)).await;
    }
}

/// Answers every call of the batch: with a timestamp, or with the last failure once its deadline has passed.
async fn serve(members: &Members, stream: &mut Option<Open>, mut batch: Vec<Call>) {
    let mut pause = RETRY_FIRST;
    // What PD said last: an attempt that the deadline cuts short must not hide it.
    let mut said: Option<PdError> = None;
    loop {
        batch.retain(|call| !call.reply.is_closed());
        // Arrival order is deadline order: the last one may wait longest.
        let Some(deadline) = batch.last().map(|call| call.deadline) else { return };
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let attempt = deadline.min(Instant::now() + TSO_TIMEOUT / ATTEMPTS);
        let error = match tokio::time::timeout_at(attempt, ask(members, stream, count)).await {
            Ok(Ok(timestamps)) => {
                for (call, ts) in batch.into_iter().zip(timestamps) {
                    let _ = call.reply.send(Ok(ts));
                }
                return;
            }
            Ok(Err(e)) => e,
            Err(_) => {
                // It hangs: the next attempt dials anew.
                if let Ok((url, _)) = members.leader() {
                    members.failed(&url);
                }
                timeout("Tso", TSO_TIMEOUT / ATTEMPTS, said.as_ref())
            }
        };
        if !matches!(error, PdError::Timeout { .. }) {
            said = Some(error.clone());
        }
        // Whatever it was, a late reply must not meet the next request.
        *stream = None;
        let give_up = !error.is_transient();
        let now = Instant::now();
        let (over, waiting): (Vec<Call>, Vec<Call>) =
            batch.into_iter().partition(|call| give_up || call.deadline <= now + pause);
        for call in over {
            let _ = call.reply.send(Err(error.clone()));
        }
        batch = waiting;
        if batch.is_empty() {
            return;
        }
        if let Ok(Err(e)) = tokio::time::timeout_at(deadline, members.relearn()).await {
            tracing::debug!("PD members cannot be refreshed: {e}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

struct Open {
    requests: mpsc::Sender<pdpb::TsoRequest>,
    replies: Streaming<pdpb::TsoResponse>,
    url: String,
}

async fn ask(
    members: &Members,
    stream: &mut Option<Open>,
    count: u32,
) -> Result<impl Iterator<Item = Tso> + use<>, PdError> {
    let request = pdpb::TsoRequest {
        header: Some(request_header(members)),
        count,
        // What PD's own clients send; PD answers the same without it.
        dc_location: "global".to_owned(),
    };
    let open = match stream {
        Some(open) => {
            if open.requests.send(request).await.is_err() {
                return Err(broken("the stream is closed"));
            }
            open
        }
        None => {
            let (url, mut client) = members.leader()?;
            let (requests, outgoing) = mpsc::channel(1);
            // The first request must lie in the stream before it is opened: PD sends its headers with the first reply.
            requests.send(request).await.map_err(|_| broken("the stream is closed"))?;
            let replies = match client.tso(ReceiverStream::new(outgoing)).await {
                Ok(replies) => replies.into_inner(),
                Err(status) => {
                    members.failed(&url);
                    return Err(PdError::rpc("Tso", &status));
                }
            };
            stream.insert(Open { requests, replies, url })
        }
    };
    match open.replies.message().await {
        Ok(Some(reply)) => {
            check_header("Tso", reply.header(), members.cluster_id())?;
            timestamps(&reply, count)
        }
        Ok(None) => Err(broken("the stream ended")),
        Err(status) => {
            members.failed(&open.url);
            Err(PdError::rpc("Tso", &status))
        }
    }
}

fn broken(message: &str) -> PdError {
    PdError::Rpc { method: "Tso", code: tonic::Code::Unavailable, message: message.to_owned() }
}

/// The timestamps of a reply: it carries the *last* of `count`, the others lie directly below it.
fn timestamps(reply: &pdpb::TsoResponse, count: u32) -> Result<impl Iterator<Item = Tso> + use<>, PdError> {
    let bad = |what: String| PdError::BadReply { method: "Tso", what };
    if reply.count != count {
        return Err(bad(format!("asked for {count} timestamps, got {}", reply.count)));
    }
    let ts = reply.timestamp.as_ref().ok_or_else(|| bad("no timestamp".to_owned()))?;
    // The low `suffix_bits` of a logical part name the allocator; one step is 1 << suffix_bits.
    let step = match ts.suffix_bits {
        bits if bits < Tso::LOGICAL_BITS => 1u64 << bits,
        bits => return Err(bad(format!("{bits} suffix bits"))),
    };
    let out_of_range = || bad(format!("physical {}, logical {} for {count} timestamps", ts.physical, ts.logical));
    let physical = u64::try_from(ts.physical).map_err(|_| out_of_range())?;
    let last = u64::try_from(ts.logical).map_err(|_| out_of_range())?;
    let below = u64::from(count.saturating_sub(1)).saturating_mul(step);
    let first = last.checked_sub(below).ok_or_else(out_of_range)?;
    if physical == 0 || physical >> (64 - Tso::LOGICAL_BITS) != 0 || last >> Tso::LOGICAL_BITS != 0 {
        return Err(out_of_range());
    }
    Ok((0..u64::from(count)).map(move |n| Tso::compose(physical, first + n * step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(count: u32, physical: i64, logical: i64, suffix_bits: u32) -> pdpb::TsoResponse {
        pdpb::TsoResponse { header: None, count, timestamp: Some(pdpb::Timestamp { physical, logical, suffix_bits }) }
    }

    #[test]
    fn the_reply_carries_the_last_timestamp() {
        let got: Vec<_> = timestamps(&reply(3, 10, 13, 0), 3).unwrap().collect();
        assert_eq!(got, [Tso::compose(10, 11), Tso::compose(10, 12), Tso::compose(10, 13)]);
        let got: Vec<_> = timestamps(&reply(1, 10, 0, 0), 1).unwrap().collect();
        assert_eq!(got, [Tso::compose(10, 0)]);
        let got: Vec<_> = timestamps(&reply(2, 10, 21, 2), 2).unwrap().collect();
        assert_eq!(got, [Tso::compose(10, 17), Tso::compose(10, 21)]);
    }

    #[test]
    fn odd_replies_are_errors() {
        for (reply, count) in [
            (reply(2, 10, 13, 0), 3),
            (reply(3, 10, 1, 0), 3),
            (reply(1, -1, 1, 0), 1),
            (reply(1, 0, 1, 0), 1),
            (reply(1, i64::MAX, 1, 0), 1),
            (reply(1, 10, -1, 0), 1),
            (reply(1, 10, 1 << 18, 0), 1),
            (reply(1, 10, 1, 18), 1),
            (pdpb::TsoResponse { header: None, count: 1, timestamp: None }, 1),
        ] {
            assert!(timestamps(&reply, count).is_err(), "{reply:?}");
        }
    }
}
