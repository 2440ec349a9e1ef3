//! One request for all who ask at the same time, without giving anybody an answer that is older than the question.
//!
//! Keeps true: an answer that a caller gets was asked for after the caller came. Who comes while a request is under way waits for
//! the next one (a verdict from absence counts only by a safe point that was read behind TiKV's answer, rules 1).

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// Cheap while nobody else asks.
pub(super) struct Joint<T> {
    /// Callers so far: each one's number.
    came: AtomicU64,
    last: Mutex<Option<Answer<T>>>,
}

struct Answer<T> {
    /// The callers up to this number had come when it was asked for.
    covers: u64,
    value: T,
}

impl<T> Default for Joint<T> {
    fn default() -> Self {
        Self { came: AtomicU64::new(0), last: Mutex::new(None) }
    }
}

impl<T: Clone> Joint<T> {
    /// The answer of `request`, or of another caller's. Cancel safe: whoever waits next asks.
    pub async fn ask<F: Future<Output = T>>(&self, request: impl FnOnce() -> F) -> T {
        let own = self.came.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let mut last = self.last.lock().await;
        if let Some(answer) = last.as_ref().filter(|answer| answer.covers >= own) {
            return answer.value.clone();
        }
        let covers = self.came.load(Ordering::Acquire);
        let value = request().await;
        *last = Some(Answer { covers, value: value.clone() });
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn who_comes_meanwhile_waits_for_the_next_request() {
        let joint = Joint::default();
        let (first_sends, first_answer) = oneshot::channel::<u32>();
        let mut first = pin!(joint.ask(|| async { first_answer.await.unwrap() }));
        assert!(poll!(&mut first).is_pending());
        // These came behind the first request: they share a second one.
        let mut second = pin!(joint.ask(|| async { 2 }));
        let mut third = pin!(joint.ask(|| async { panic!("the second's answer is good for the third") }));
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        first_sends.send(1).unwrap();
        assert_eq!((first.await, second.await, third.await), (1, 2, 2));
        // Nobody gets what was asked for before it came.
        assert_eq!(joint.ask(|| async { 3 }).await, 3);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_it_to_the_next() {
        let joint = Joint::default();
        let mut second = {
            let mut first = Box::pin(joint.ask(std::future::pending::<u32>));
            assert!(poll!(&mut first).is_pending());
            let mut second = Box::pin(joint.ask(|| async { 2 }));
            assert!(poll!(&mut second).is_pending());
            second
        };
        assert_eq!(second.as_mut().await, 2);
    }
}
