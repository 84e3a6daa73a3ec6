//! JSON objects as Go's decoder, which flannel uses, reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// An object's fields by their names in lower case: names match in any case, and of several the last one counts.
#[derive(Debug)]
pub(super) struct Fields(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let name = name.to_lowercase();
                    // Go leaves a number or a boolean as it is where the text says null.
                    if value.is_null() && fields.contains_key(&name) {
                        continue;
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| anyhow!(error))
    }

    /// The field called `name`; `None` where it is absent or null.
    ///
    /// # Errors
    /// Where it is something else than a `T`, with its name and value.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.0.get(&name.to_lowercase()).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        T::deserialize(value).map(Some).map_err(|error| anyhow!("{name} is {value}: {error}"))
    }

    /// A field that must be there; `what` says what it should be.
    pub(super) fn require<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<T> {
        let value = self.0.get(&name.to_lowercase());
        let value = value.with_context(|| format!("{name} is missing; write {what}"))?;
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        parsed.with_context(|| format!("{name} is {value}, which is not {what}"))
    }

    /// An address, which is none where it is absent, null, empty or unspecified.
    pub(super) fn address<A: DeserializeOwned + Into<IpAddr>>(&self, name: &str) -> Result<Option<IpAddr>> {
        let address = self.get::<A>(name)?.map(Into::into);
        Ok(address.filter(|address| !address.is_unspecified()))
    }
}
