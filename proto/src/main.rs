//! Regenerates the checked-in protobuf code from `proto/protos`: messages into `core/src/proto`, services into
//! `adapters/cluster/src/generated`. Run it as `./x proto`; the output is committed, so an ordinary build needs no compiler
//! of protobuf files.

use std::path::Path;

const PACKAGES: [&str; 5] = ["binlog", "metapb", "pdpb", "errorpb", "kvrpcpb"];

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("protos");
    let files = ["binlog", "pump", "cistern", "metapb", "pdpb", "errorpb", "kvrpcpb", "tikvpb"];
    let descriptors = protox::compile(files.iter().map(|f| format!("{f}.proto")), [&protos])?;

    prost_build::Config::new()
        .bytes(["."])
        .out_dir(root.join("core/src/proto"))
        .skip_protoc_run()
        .compile_fds(descriptors.clone())?;
    // prost writes a file for the service-only package as well.
    let _ = std::fs::remove_file(root.join("core/src/proto/tikvpb.rs"));

    let mut services = tonic_prost_build::configure().out_dir(root.join("adapters/cluster/src/generated"));
    for package in PACKAGES {
        services = services.extern_path(format!(".{package}"), format!("::binlog_core::proto::{package}"));
    }
    services.compile_fds(descriptors)?;
    for package in ["metapb", "errorpb", "kvrpcpb"] {
        let _ = std::fs::remove_file(root.join(format!("adapters/cluster/src/generated/{package}.rs")));
    }
    Ok(())
}
