//! A TCP proxy that breaks a connection when the client sends a certain text.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees it.
    BeforeForwarding,
    /// The server does it, the client never hears of it.
    AfterAnswer,
    /// Held back, and the connection with it, until the server is gone.
    Hold,
    /// The server does it; its answer is held back until the server is gone.
    HoldAnswer,
}

struct Plan {
    armed: Mutex<Option<(Vec<u8>, Cut)>>,
    reached: Notify,
}

impl Plan {
    /// Takes the plan if `sent` contains its text.
    fn hit(&self, sent: &[u8]) -> Option<Cut> {
        let mut armed = self.armed.lock().unwrap();
        let (needle, cut) = armed.as_ref()?;
        let cut = *cut;
        sent.windows(needle.len()).any(|w| w == needle.as_slice()).then(|| {
            *armed = None;
            cut
        })
    }
}

pub struct Proxy {
    pub port: u16,
    plan: Arc<Plan>,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan { armed: Mutex::new(None), reached: Notify::new() });
        let shared = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Nobody there: the client sees its connection close.
                if let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)).await {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = upstream.into_split();
                    let (sender, receiver) = watch::channel(None);
                    tokio::spawn(requests(from_client, to_server, shared.clone(), sender));
                    tokio::spawn(answers(from_server, to_client, shared.clone(), receiver));
                }
            }
        });
        Self { port, plan }
    }

    /// The next request that contains `needle` is cut; once.
    pub fn arm(&self, needle: &str, cut: Cut) {
        *self.plan.armed.lock().unwrap() = Some((needle.as_bytes().to_vec(), cut));
    }

    /// The cut has happened.
    pub async fn reached(&self) {
        self.plan.reached.notified().await;
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plan: Arc<Plan>, state: watch::Sender<Option<Cut>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let hit = plan.hit(&buffer[..n]);
        if let Some(cut) = hit {
            state.send(Some(cut)).unwrap();
            match cut {
                Cut::BeforeForwarding => return,
                Cut::Hold => {
                    plan.reached.notify_one();
                    continue;
                }
                Cut::AfterAnswer | Cut::HoldAnswer => {}
            }
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: Arc<Plan>,
    mut state: watch::Receiver<Option<Cut>>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = tokio::select! {
            biased;
            changed = state.changed() => {
                if changed.is_err() || *state.borrow() == Some(Cut::BeforeForwarding) {
                    return;
                }
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(n @ 1..) = read else { return };
        let cut = *state.borrow();
        match cut {
            Some(Cut::AfterAnswer) => return,
            Some(Cut::HoldAnswer) => plan.reached.notify_one(),
            _ => {
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
