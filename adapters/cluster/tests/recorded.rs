//! Our messages against the bytes of a real PD and TiKV: all that was recorded decodes and encodes to the same bytes, so no
//! field that a real peer sends is missing, misnumbered or mistyped.

mod common;

use binlog_core::proto::{kvrpcpb, pdpb};
use prost::Message;

fn same<M: Message + Default + std::fmt::Debug>(name: &str, bytes: &[u8]) {
    let message = M::decode(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(message.encode_to_vec(), bytes, "{name}: {message:?}");
}

#[test]
fn recorded_bytes_survive_decoding_and_encoding() {
    let mut checked = 0;
    for r in common::recorded() {
        macro_rules! pair {
            ($request:ty, $reply:ty) => {{
                same::<$request>(&r.name, &r.request);
                same::<$reply>(&r.name, &r.response);
            }};
        }
        match r.method.rsplit('/').next().unwrap() {
            "GetMembers" => pair!(pdpb::GetMembersRequest, pdpb::GetMembersResponse),
            "GetAllStores" => pair!(pdpb::GetAllStoresRequest, pdpb::GetAllStoresResponse),
            "GetStore" => pair!(pdpb::GetStoreRequest, pdpb::GetStoreResponse),
            "GetRegion" => pair!(pdpb::GetRegionRequest, pdpb::GetRegionResponse),
            "ScanRegions" => pair!(pdpb::ScanRegionsRequest, pdpb::ScanRegionsResponse),
            "GetGCSafePoint" => pair!(pdpb::GetGcSafePointRequest, pdpb::GetGcSafePointResponse),
            "GetClusterConfig" => pair!(pdpb::GetClusterConfigRequest, pdpb::GetClusterConfigResponse),
            "UpdateServiceGCSafePoint" => {
                pair!(pdpb::UpdateServiceGcSafePointRequest, pdpb::UpdateServiceGcSafePointResponse);
            }
            "Tso" => pair!(pdpb::TsoRequest, pdpb::TsoResponse),
            "KvGet" => pair!(kvrpcpb::GetRequest, kvrpcpb::GetResponse),
            "KvScan" => pair!(kvrpcpb::ScanRequest, kvrpcpb::ScanResponse),
            "KvCheckTxnStatus" => pair!(kvrpcpb::CheckTxnStatusRequest, kvrpcpb::CheckTxnStatusResponse),
            "MvccGetByKey" => pair!(kvrpcpb::MvccGetByKeyRequest, kvrpcpb::MvccGetByKeyResponse),
            // Calls that only TiDB makes.
            "KvPrewrite" | "KvCommit" | "KvBatchRollback" => continue,
            other => panic!("{other}: a recorded method that no client or message covers"),
        }
        checked += 1;
    }
    assert!(checked >= 40, "only {checked} recorded replies were checked");
}
