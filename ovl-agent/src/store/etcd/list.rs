//! All leases as they were at one revision of the store, by one request.

use etcd_client::{GetOptions, ResponseHeader};

use super::MAX_ANSWER;
use super::endpoints::Endpoints;
use super::failure::Failure;
use super::keys::Keys;
use crate::lease::LeaseKey;
use crate::store::{Listed, Rejected};

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order of their subnets.
    pub(super) leases: Vec<Listed>,
    /// What could not be read.
    pub(super) rejected: Vec<Rejected>,
    /// When it was so.
    pub(super) revision: i64,
}

/// Lists all leases.
pub(super) async fn list(endpoints: &Endpoints, keys: &Keys) -> Result<Listing, Failure> {
    let mut answer = endpoints
        .call_for_listing(|client| {
            let options = GetOptions::new().with_prefix();
            let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
            let subnets = keys.subnets();
            async move { kv.get(subnets, Some(options)).await }
        })
        .await?;
    let mut listing =
        Listing { revision: answer.header().map_or(0, ResponseHeader::revision), ..Listing::default() };
    // Pair by pair out of the answer, which is megabytes in a large cluster.
    let pairs = answer.take_kvs();
    listing.leases.reserve_exact(pairs.len());
    for pair in pairs {
        match keys.read(&pair) {
            Ok(listed) => listing.leases.push(listed),
            Err(item) => listing.rejected.push(item),
        }
    }
    listing.leases.sort_by_key(|listed| listed.lease.key);
    Ok(listing)
}

/// The keys of all leases, as far as they can be read, with the revision each was written at; and that at which it was so.
pub(super) async fn list_keys(
    endpoints: &Endpoints,
    keys: &Keys,
) -> Result<(Vec<(LeaseKey, i64)>, i64), Failure> {
    let answer = endpoints
        .call_for_listing(|client| {
            let options = GetOptions::new().with_prefix().with_keys_only();
            let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
            let subnets = keys.subnets();
            async move { kv.get(subnets, Some(options)).await }
        })
        .await?;
    let found =
        answer.kvs().iter().filter_map(|pair| Some((keys.parse(pair.key()).ok()?, pair.mod_revision())));
    Ok((found.collect(), answer.header().map_or(0, ResponseHeader::revision)))
}
