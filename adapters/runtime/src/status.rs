//! Looking at a machine from outside, without sharing it: the driver answers between two bursts.

use crate::driver::Sender;
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait; more askers wait in turn.
const QUESTIONS: usize = 64;

/// Asks for a status of type `T` of a machine with inputs of type `I`.
#[derive(Debug)]
pub struct Asker<I, R, T> {
    questions: mpsc::Sender<oneshot::Sender<T>>,
    wake: Sender<I, R>,
}

impl<I, R, T> Clone for Asker<I, R, T> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone(), wake: self.wake.clone() }
    }
}

/// The driver's side: held by the ports, answered in `Ports::observe`.
#[derive(Debug)]
pub struct Answerer<T> {
    questions: mpsc::Receiver<oneshot::Sender<T>>,
}

/// A pair; `wake` reaches the driver whose ports hold the [`Answerer`].
#[must_use]
pub fn channel<I, R, T>(wake: Sender<I, R>) -> (Asker<I, R, T>, Answerer<T>) {
    let (questions, rx) = mpsc::channel(QUESTIONS);
    (Asker { questions, wake }, Answerer { questions: rx })
}

impl<I, R, T> Asker<I, R, T> {
    /// The status now; `None` when the driver has ended. `tick` is the machine's tick, which changes nothing.
    pub async fn ask(&self, tick: I) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(answer).await.ok()?;
        self.wake.complete(tick);
        answered.await.ok()
    }
}

impl<T> Answerer<T> {
    /// Answers everybody who has asked.
    pub fn answer(&mut self, status: impl Fn() -> T) {
        while let Ok(question) = self.questions.try_recv() {
            // An asker that went away needs no answer.
            let _ = question.send(status());
        }
    }
}
