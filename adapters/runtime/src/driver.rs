//! The driver: one task per machine (design 2.3). Takes a bounded burst from the inbox, hands it in, drains the effects to the
//! ports, then waits for the inbox or the deadline. It decides nothing.

use crate::clock::Clock;
use binlog_core::fault::IoFault;
use binlog_core::machine::Machine;
use std::ops::ControlFlow;
use tokio::sync::mpsc;

/// Most inputs that are handed in before effects are drained: bounds how long a completion waits.
const BURST: usize = 256;

/// Requests that may wait unread; senders wait beyond that, which is the back-pressure towards the network.
pub const REQUESTS: usize = 1024;

/// Carries out the effects of one machine.
pub trait Ports<M: Machine> {
    /// What comes in from clients, with the means to answer.
    type Request;

    /// Takes a request: keeps what is needed to answer and names the machine's input. `None`: answered already.
    fn admit(&mut self, request: Self::Request) -> Option<M::Input>;

    /// Starts one effect; its completion goes to the inbox. Must not block. `Break` ends the driver with that exit code.
    fn execute(&mut self, effect: M::Effect) -> ControlFlow<u8>;

    /// Called after each burst, with the machine at rest.
    fn observe(&mut self, machine: &M);

    /// Whether requests of clients may be handed in now; completions always are.
    fn accepts_requests(&self, machine: &M) -> bool;

    /// What a passed deadline is called.
    fn tick(&self) -> M::Input;
}

/// What does not wait for the machine's readiness.
#[derive(Debug)]
enum Urgent<I, R> {
    Input(I),
    Request(R),
}

/// Where completions and requests come in. Completions are unbounded: their number is bounded by what the machine has in flight.
#[derive(Debug)]
pub struct Inbox<I, R> {
    urgent: mpsc::UnboundedReceiver<Urgent<I, R>>,
    requests: mpsc::Receiver<R>,
}

/// The sending side of an [`Inbox`].
#[derive(Debug)]
pub struct Sender<I, R> {
    urgent: mpsc::UnboundedSender<Urgent<I, R>>,
    requests: mpsc::Sender<R>,
}

impl<I, R> Clone for Sender<I, R> {
    fn clone(&self) -> Self {
        Self { urgent: self.urgent.clone(), requests: self.requests.clone() }
    }
}

/// The driver has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl<I, R> Sender<I, R> {
    /// Hands in the completion of an effect. After the driver's end it is dropped: nobody waits for it any more.
    pub fn complete(&self, input: I) {
        let _ = self.urgent.send(Urgent::Input(input));
    }

    /// Runs `work` on the runtime and hands its outcome in: how ports carry out an effect that takes time.
    pub fn run<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
        done: impl FnOnce(Result<T, IoFault>) -> I + Send + 'static,
    ) where
        T: Send,
        E: Into<IoFault> + Send,
        I: Send + 'static,
        R: Send + 'static,
    {
        let sender = self.clone();
        tokio::spawn(async move {
            let result = work.await.map_err(Into::into);
            sender.complete(done(result));
        });
    }

    /// Hands in a request that only frees what is held (credit, a closed stream): taken also while the machine is busy.
    pub fn signal(&self, request: R) {
        let _ = self.urgent.send(Urgent::Request(request));
    }

    /// Hands in a request; waits while the inbox is full.
    ///
    /// # Errors
    /// When the driver has ended.
    pub async fn request(&self, request: R) -> Result<(), Ended> {
        self.requests.send(request).await.map_err(|_| Ended)
    }

    /// Hands in a request if there is room at once.
    ///
    /// # Errors
    /// Gives it back when there is none, or the driver has ended.
    pub fn try_request(&self, request: R) -> Result<(), mpsc::error::TrySendError<R>> {
        self.requests.try_send(request)
    }

    /// Room for one request, so that it can be fetched only when there is some.
    ///
    /// # Errors
    /// When the driver has ended.
    pub async fn room(&self) -> Result<mpsc::Permit<'_, R>, Ended> {
        self.requests.reserve().await.map_err(|_| Ended)
    }
}

/// An inbox and its sender.
#[must_use]
pub fn inbox<I, R>() -> (Sender<I, R>, Inbox<I, R>) {
    let (urgent, urgent_rx) = mpsc::unbounded_channel();
    let (requests, requests_rx) = mpsc::channel(REQUESTS);
    (Sender { urgent, requests }, Inbox { urgent: urgent_rx, requests: requests_rx })
}

/// Runs `machine` until one of its effects ends the process; returns the exit code.
pub async fn drive<M: Machine, P: Ports<M>>(
    machine: &mut M,
    ports: &mut P,
    inbox: &mut Inbox<M::Input, P::Request>,
    clock: Clock,
) -> u8 {
    loop {
        while let Some(effect) = machine.poll_effect() {
            if let ControlFlow::Break(code) = ports.execute(effect) {
                return code;
            }
        }
        ports.observe(machine);

        let open = ports.accepts_requests(machine);
        let deadline = machine.next_deadline().map(|d| clock.instant(d));
        let (first, is_request) = tokio::select! {
            biased;
            Some(urgent) = inbox.urgent.recv() => (admit_urgent(ports, urgent), false),
            Some(request) = inbox.requests.recv(), if open => (ports.admit(request), true),
            () = sleep_until(deadline) => (Some(ports.tick()), false),
        };
        if is_request {
            // Calls that are ready to hand in theirs go first, so that they share a burst, and with it a batch. With none
            // ready this returns at once.
            tokio::task::yield_now().await;
        }
        let mut next = first;
        for _ in 0..BURST {
            if let Some(input) = next.take() {
                machine.handle(clock.now(), input);
            }
            next = match inbox.urgent.try_recv() {
                Ok(urgent) => admit_urgent(ports, urgent),
                Err(_) if ports.accepts_requests(machine) => match inbox.requests.try_recv() {
                    Ok(request) => ports.admit(request),
                    Err(_) => break,
                },
                Err(_) => break,
            };
        }
        // The burst may end with an input in hand.
        if let Some(input) = next {
            machine.handle(clock.now(), input);
        }
    }
}

fn admit_urgent<M: Machine, P: Ports<M>>(ports: &mut P, urgent: Urgent<M::Input, P::Request>) -> Option<M::Input> {
    match urgent {
        Urgent::Input(input) => Some(input),
        Urgent::Request(request) => ports.admit(request),
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::time::{Deadline, MonoTime};
    use std::collections::VecDeque;

    /// Echoes requests as effects; stops at 0; ticks once after a millisecond.
    #[derive(Default)]
    struct Echo {
        effects: VecDeque<u32>,
        ticked: bool,
    }

    const TICK: u32 = 1_000;

    impl Machine for Echo {
        type Input = u32;
        type Effect = u32;

        fn handle(&mut self, _now: MonoTime, input: u32) {
            self.ticked |= input == TICK;
            self.effects.push_back(input);
        }

        fn poll_effect(&mut self) -> Option<u32> {
            self.effects.pop_front()
        }

        fn next_deadline(&self) -> Option<Deadline> {
            (!self.ticked).then(|| MonoTime::from_nanos(1_000_000))
        }

        fn check(&self) {}
    }

    struct Recorder {
        seen: Vec<u32>,
        open: bool,
    }

    impl Ports<Echo> for Recorder {
        type Request = u32;

        fn admit(&mut self, request: u32) -> Option<u32> {
            Some(request)
        }

        fn execute(&mut self, effect: u32) -> ControlFlow<u8> {
            self.seen.push(effect);
            self.open |= effect == 7;
            if effect == 0 { ControlFlow::Break(3) } else { ControlFlow::Continue(()) }
        }

        fn observe(&mut self, _machine: &Echo) {}

        fn accepts_requests(&self, _machine: &Echo) -> bool {
            self.open
        }

        fn tick(&self) -> u32 {
            TICK
        }
    }

    #[tokio::test]
    async fn completions_go_before_requests_and_requests_wait_until_they_are_wanted() {
        let (sender, mut inbox) = inbox::<u32, u32>();
        sender.request(0).await.unwrap();
        sender.complete(7);
        sender.complete(8);
        let mut ports = Recorder { seen: Vec::new(), open: false };
        let code = drive(&mut Echo::default(), &mut ports, &mut inbox, Clock::start()).await;
        assert_eq!(code, 3);
        assert_eq!(ports.seen.iter().copied().filter(|s| *s != TICK).collect::<Vec<_>>(), [7, 8, 0]);
    }

    #[tokio::test]
    async fn a_deadline_becomes_a_tick() {
        let (sender, mut inbox) = inbox::<u32, u32>();
        let mut ports = Recorder { seen: Vec::new(), open: true };
        let mut machine = Echo::default();
        let run = drive(&mut machine, &mut ports, &mut inbox, Clock::start());
        let stop = async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            sender.request(0).await
        };
        let (code, _) = tokio::join!(run, stop);
        assert_eq!((code, ports.seen), (3, vec![TICK, 0]));
    }
}
