//! Messages of PD and TiKV, of peers, and keys of regions.

use binlog_core::codec::key;
use binlog_core::proto::{binlog, errorpb, kvrpcpb, pdpb};
use bytes::Bytes;
use prost::Message;

/// The first byte says which message the rest is. What decodes, encodes and decodes to the same.
pub fn replies(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 16 {
        0 => round_trip::<pdpb::GetMembersResponse>(bytes),
        1 => round_trip::<pdpb::TsoResponse>(bytes),
        2 => round_trip::<pdpb::GetStoreResponse>(bytes),
        3 => round_trip::<pdpb::GetAllStoresResponse>(bytes),
        4 => region(bytes),
        5 => round_trip::<pdpb::GetGcSafePointResponse>(bytes),
        6 => round_trip::<pdpb::UpdateServiceGcSafePointResponse>(bytes),
        7 => round_trip::<kvrpcpb::GetResponse>(bytes),
        8 => round_trip::<kvrpcpb::ScanResponse>(bytes),
        9 => round_trip::<kvrpcpb::MvccGetByKeyResponse>(bytes),
        10 => round_trip::<kvrpcpb::CheckTxnStatusResponse>(bytes),
        11 => round_trip::<errorpb::Error>(bytes),
        12 => round_trip::<binlog::WriteBinlogReq>(bytes),
        13 => round_trip::<binlog::PullBinlogReq>(bytes),
        14 => round_trip::<binlog::PullBinlogResp>(bytes),
        _ => {
            let _ = key::parse(bytes);
            let _ = key::from_region(bytes);
        }
    }
}

fn region(bytes: &[u8]) {
    round_trip::<pdpb::GetRegionResponse>(bytes);
    if let Some(region) = pdpb::GetRegionResponse::decode(bytes).ok().and_then(|reply| reply.region) {
        let _ = key::from_region(&region.start_key);
        let _ = key::from_region(&region.end_key);
    }
}

fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let again = M::decode(Bytes::from(message.encode_to_vec())).expect("our own encoding");
    assert!(again == message, "{message:?} became {again:?}");
}
