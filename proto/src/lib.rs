//! The gRPC contract: the `.proto` files and the code generated from them, once, for client and server.
//!
//! Left out: any behaviour. product-service serves it, user-service calls it.

/// The catalogue, version 1.
#[expect(
    missing_docs,
    reason = "generated: the .proto file is the documentation"
)]
pub mod catalog {
    tonic::include_proto!("agora.catalog.v1");
}

/// The encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
