use super::*;
use crate::expected::captures;
use binlog_cluster::generated::binlog::pump_server::{Pump, PumpServer};
use binlog_core::proto::binlog::{PullBinlogReq, PullBinlogResp, WriteBinlogResp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status};

fn bank() -> Capture {
    Capture::open(&captures().join("bank")).unwrap()
}

#[test]
fn a_plan_for_the_recorded_number_keeps_each_pumps_order() {
    let capture = bank();
    let plan = plan(&capture, 2);
    assert_eq!(plan.iter().map(Vec::len).sum::<usize>(), 1_941 + 1_826 + 115);
    for records in &plan {
        assert!(records.windows(2).all(|w| w[0].i < w[1].i && w[0].pump == w[1].pump));
        assert!(records.iter().all(|r| !r.fake));
    }
}

#[test]
fn a_plan_for_another_number_keeps_transactions_together_and_in_order() {
    let capture = bank();
    for pumps in [1, 3, 5] {
        let plan = plan(&capture, pumps);
        assert_eq!(plan.iter().map(Vec::len).sum::<usize>(), 1_941 + 1_826 + 115);
        for (n, records) in plan.iter().enumerate() {
            let mut prewritten = BTreeMap::new();
            for (at, record) in records.iter().enumerate() {
                assert_eq!(record.start_ts % pumps as u64, n as u64);
                match record.kind {
                    Kind::Prewrite => drop(prewritten.insert(record.start_ts, at)),
                    Kind::Commit => assert!(prewritten.contains_key(&record.start_ts), "C after its P"),
                    Kind::Rollback => {
                        assert_eq!(prewritten.get(&record.start_ts), Some(&(at - 1)), "R right after its P")
                    }
                }
            }
        }
    }
}

/// Acknowledges what it was told to, and fails now and then as a Pump does that is being restarted.
#[derive(Clone, Default)]
struct FakePump {
    received: Arc<Mutex<Vec<Bytes>>>,
    calls: Arc<Mutex<u64>>,
    refuse: bool,
}

#[tonic::async_trait]
impl Pump for FakePump {
    async fn write_binlog(&self, request: Request<WriteBinlogReq>) -> Result<Response<WriteBinlogResp>, Status> {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        if self.refuse {
            return Err(Status::resource_exhausted("received message larger than max (9 vs. 1)"));
        }
        if call % 100 == 50 {
            return Err(Status::unavailable("restarting"));
        }
        self.received.lock().unwrap().push(request.into_inner().payload);
        Ok(Response::new(WriteBinlogResp::default()))
    }

    type PullBinlogsStream = tokio_stream::Empty<Result<PullBinlogResp, Status>>;

    async fn pull_binlogs(&self, _: Request<PullBinlogReq>) -> Result<Response<Self::PullBinlogsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

async fn serve(pump: FakePump) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(PumpServer::new(pump)).serve_with_incoming(incoming));
    address
}

#[tokio::test]
async fn every_record_arrives_once_in_order_whatever_fails() {
    let capture = bank();
    let plan = plan(&capture, 2);
    let pumps = [FakePump::default(), FakePump::default()];
    let addresses = [serve(pumps[0].clone()).await, serve(pumps[1].clone()).await];
    let counters = Arc::new(Counters::new(plan.iter().map(|p| p.len() as u64).collect()));
    feed(capture.facts.cluster_id, &plan, &addresses, None, &counters).await.unwrap();
    for (records, pump) in plan.iter().zip(&pumps) {
        let received = pump.received.lock().unwrap();
        assert!(received.iter().eq(records.iter().map(|r| &r.payload)));
    }
    assert_eq!(counters.sum(), counters.all());
    assert!(counters.retries() > 0);
}

#[tokio::test]
async fn a_refusal_ends_the_feed_with_its_text() {
    let capture = bank();
    let plan = plan(&capture, 1);
    let addresses = [serve(FakePump { refuse: true, ..FakePump::default() }).await];
    let counters = Arc::new(Counters::new(vec![1]));
    let error = feed(1, &plan, &addresses, None, &counters).await.unwrap_err();
    assert!(format!("{error:#}").contains("larger than max"), "{error:#}");
}
