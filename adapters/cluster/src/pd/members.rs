//! Who the members of PD are and which one leads.
//!
//! Keeps true: the configured addresses are only the way in. What the members themselves announce replaces them, so that
//! every address may be exchanged one by one while this process runs; the configured ones stay as a last resort. A member
//! of another cluster is never followed.

use crate::error::{PdError, message_of};
use crate::generated::pdpb::pd_client::PdClient as Grpc;
use crate::tls::Security;
use crate::transport::{self, UNLIMITED_MESSAGE};
use binlog_core::ids::ClusterId;
use binlog_core::proto::pdpb;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

pub(super) type Client = Grpc<Channel>;

/// What the members said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub cluster_id: ClusterId,
    /// Announced addresses of all members, normalised, without repeats.
    pub urls: Vec<String>,
    /// Addresses of the leader; the first one is used.
    pub leader: Vec<String>,
}

/// Shared by all calls; the lock is never held across an await.
pub(super) struct Members {
    configured: Vec<String>,
    security: Security,
    state: Mutex<State>,
}

struct State {
    view: View,
    channels: BTreeMap<String, Client>,
    /// Moves to the leader's next address when one of several does not answer.
    leader_turn: usize,
}

/// What one member may take to say who leads; all are asked at once.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

impl Members {
    /// Asks the configured members until one answers.
    pub async fn learn(configured: &[String], security: &Security) -> Result<Self, PdError> {
        let normal = |u: &String| transport::normalize(u, security);
        let configured = configured.iter().map(normal).collect::<Result<Vec<_>, _>>()?;
        let mut channels = BTreeMap::new();
        let view = ask(&configured, security, &mut |url| channel(&mut channels, url, security), None).await?;
        let state = Mutex::new(State { view, channels: BTreeMap::new(), leader_turn: 0 });
        Ok(Self { configured, security: security.clone(), state })
    }

    /// Asks the known members, then the configured ones, and takes over what the first one says.
    pub async fn relearn(&self) -> Result<(), PdError> {
        let (urls, own) = {
            let state = self.lock();
            let mut urls = state.view.urls.clone();
            urls.extend(self.configured.iter().filter(|u| !state.view.urls.contains(u)).cloned());
            (urls, state.view.cluster_id)
        };
        let security = &self.security;
        let view =
            ask(&urls, security, &mut |url| channel(&mut self.lock().channels, url, security), Some(own)).await?;
        let mut state = self.lock();
        if state.view != view {
            tracing::info!(leader = ?view.leader, members = ?view.urls, "PD members changed");
            state.leader_turn = 0;
        }
        let State { channels, .. } = &mut *state;
        channels.retain(|url, _| view.urls.contains(url) || self.configured.contains(url));
        state.view = view;
        Ok(())
    }

    /// A client of the leader, and its address.
    pub fn leader(&self) -> Result<(String, Client), PdError> {
        let mut state = self.lock();
        let turn = state.leader_turn;
        let url = match state.view.leader.len() {
            0 => return Err(PdError::NoLeader),
            n => state.view.leader.get(turn % n).cloned().ok_or(PdError::NoLeader)?,
        };
        let client = channel(&mut state.channels, &url, &self.security)?;
        Ok((url, client))
    }

    /// The connection to `url` failed: the next call dials anew, and tries another of the leader's addresses.
    pub fn failed(&self, url: &str) {
        let mut state = self.lock();
        state.channels.remove(url);
        state.leader_turn = state.leader_turn.wrapping_add(1);
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.lock().view.cluster_id
    }

    pub const fn security(&self) -> &Security {
        &self.security
    }

    pub fn urls(&self) -> Vec<String> {
        self.lock().view.urls.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is replaced in single assignments: a panic elsewhere cannot leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn channel(channels: &mut BTreeMap<String, Client>, url: &str, security: &Security) -> Result<Client, PdError> {
    if let Some(client) = channels.get(url) {
        return Ok(client.clone());
    }
    let channel = transport::endpoint(url, security)?.connect_lazy();
    let client = Grpc::new(channel).max_decoding_message_size(UNLIMITED_MESSAGE);
    channels.insert(url.to_owned(), client.clone());
    Ok(client)
}

/// The first usable answer to GetMembers. All are asked at once: one that hangs must not use up its callers' time.
async fn ask(
    urls: &[String],
    security: &Security,
    client: &mut (dyn FnMut(&str) -> Result<Client, PdError> + Send),
    own: Option<ClusterId>,
) -> Result<View, PdError> {
    let mut answers = FuturesUnordered::new();
    for url in urls.iter().take(MAX_MEMBERS) {
        let mut client = client(url)?;
        answers.push(async move {
            let request = pdpb::GetMembersRequest { header: None };
            match tokio::time::timeout(MEMBER_TIMEOUT, client.get_members(request)).await {
                Err(_) => Err(format!("{url}: no answer within {} ms", MEMBER_TIMEOUT.as_millis())),
                Ok(Err(status)) => Err(format!("{url}: {}", message_of(&status))),
                Ok(Ok(reply)) => match view_of(reply.into_inner(), security) {
                    Ok(view) => Ok((url, view)),
                    Err(what) => Err(format!("{url}: {what}")),
                },
            }
        });
    }
    let mut tried = Vec::new();
    let mut wrong_cluster = None;
    let mut without_leader = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Err(what) => tried.push(what),
            Ok((url, view)) => match own {
                Some(own) if own != view.cluster_id => {
                    wrong_cluster =
                        Some(format!("{url} is a member of {}, this node belongs to {own}", view.cluster_id));
                }
                _ if view.leader.is_empty() => without_leader = Some(view),
                _ => return Ok(view),
            },
        }
    }
    match (without_leader, wrong_cluster) {
        // An election is going on: the members are known, calls say NoLeader and learn again.
        (Some(view), _) => Ok(view),
        (None, Some(what)) => Err(PdError::WrongCluster(what)),
        (None, None) => Err(PdError::NoMember { tried: tried.join("; ") }),
    }
}

fn view_of(reply: pdpb::GetMembersResponse, security: &Security) -> Result<View, String> {
    let header = reply.header.ok_or("the reply has no header")?;
    if let Some(e) = header.error
        && e.r#type != pdpb::ErrorType::Ok as i32
    {
        return Err(e.message);
    }
    if header.cluster_id == 0 {
        return Err("the cluster is not bootstrapped yet (cluster id 0)".to_owned());
    }
    let normal = |urls: &[String]| -> Vec<String> {
        urls.iter().filter_map(|u| transport::normalize(u, security).ok()).collect()
    };
    let mut urls: Vec<String> = Vec::new();
    // A cluster has a handful of members; the cap only bounds what a broken peer can make us keep.
    for member in reply.members.iter().take(MAX_MEMBERS) {
        for url in normal(&member.client_urls) {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    let leader = reply.leader.as_ref().map(|l| normal(&l.client_urls)).unwrap_or_default();
    Ok(View { cluster_id: ClusterId::new(header.cluster_id), urls, leader })
}

const MAX_MEMBERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn member(urls: &[&str]) -> pdpb::Member {
        pdpb::Member { client_urls: urls.iter().map(|u| (*u).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn replies() {
        let view_of = |reply| view_of(reply, &Security::plaintext());
        let header = |id| Some(pdpb::ResponseHeader { cluster_id: id, error: None });
        let reply = pdpb::GetMembersResponse {
            header: header(7),
            members: vec![member(&["http://a:1", "http://a:1/"]), member(&["https://b:2", "http://c:3"])],
            leader: Some(member(&["http://c:3"])),
            etcd_leader: None,
        };
        let view = view_of(reply.clone()).unwrap();
        assert_eq!(view.urls, ["http://a:1", "http://c:3"]);
        assert_eq!(view.leader, ["http://c:3"]);
        assert!(view_of(pdpb::GetMembersResponse { header: header(0), ..reply.clone() }).is_err());
        assert!(view_of(pdpb::GetMembersResponse { header: None, ..reply.clone() }).is_err());
        assert!(view_of(pdpb::GetMembersResponse { leader: None, ..reply }).unwrap().leader.is_empty());
    }
}
