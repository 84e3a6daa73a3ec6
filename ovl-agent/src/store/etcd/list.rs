//! All leases as they were at one revision of the store.

use etcd_client::{GetOptions, KeyValue, ResponseHeader};

use super::endpoints::Endpoints;
use super::failure::Failure;
use super::keys::Keys;
use crate::store::{Listed, Rejected};

/// Keys to an answer: an answer with all leases of a large cluster would be in memory several times over (as bytes, as
/// messages, as leases), and outgrow gRPC's 4 MiB at some ten thousand nodes.
const PAGE: usize = 1000;

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order of their keys.
    pub(super) leases: Vec<Listed>,
    /// What could not be read.
    pub(super) rejected: Vec<Rejected>,
    /// When it was so.
    pub(super) revision: i64,
}

/// Lists all leases.
pub(super) async fn list(endpoints: &Endpoints, keys: &Keys) -> Result<Listing, Failure> {
    let subnets = keys.subnets();
    let (mut from, end) = (subnets.clone().into_bytes(), after(&subnets));
    let mut listing = Listing::default();
    loop {
        // The first page is of now, and the others of the same moment.
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE.cast_signed() as i64)
            .with_revision(listing.revision);
        let mut page = endpoints
            .call(|client| {
                let (from, options) = (from.clone(), options.clone());
                async move { client.kv_client().get(from, Some(options)).await }
            })
            .await?;
        if listing.revision == 0 {
            listing.revision = page.header().map_or(0, ResponseHeader::revision);
            listing.leases.reserve_exact(usize::try_from(page.count()).unwrap_or_default());
        }
        let pairs = page.take_kvs();
        let last = pairs.last().map(|pair| pair.key().to_vec());
        for pair in pairs {
            listing.take(keys, &pair);
        }
        match last {
            Some(last) if page.more() => from = [last, vec![0]].concat(),
            _ => break,
        }
    }
    listing.leases.sort_by_key(|listed| listed.lease.key);
    Ok(listing)
}

impl Listing {
    fn take(&mut self, keys: &Keys, pair: &KeyValue) {
        match keys.read(pair) {
            Ok(listed) => self.leases.push(listed),
            Err(item) => self.rejected.push(item),
        }
    }
}

/// The end of the range of all keys that begin with `prefix`, a name and a slash.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(slash) = end.last_mut() {
        *slash += 1;
    }
    end
}
