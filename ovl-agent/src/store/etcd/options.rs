//! How to reach an etcd cluster.

use std::fmt;
use std::path::PathBuf;

/// flannel's `--etcd-…` flags. An empty value is as good as none.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// URLs of the members. `https://` asks for TLS, member by member; a member without a scheme gets TLS where any
    /// of the three files is given.
    pub endpoints: Vec<String>,
    /// What the network's keys begin with.
    pub prefix: String,
    /// PEM file with the key of `certfile`.
    pub keyfile: Option<PathBuf>,
    /// PEM file with the certificate that we show, and those between it and its CA.
    pub certfile: Option<PathBuf>,
    /// PEM file with the CAs that may have signed the members' certificates; without it, those that the system trusts.
    /// All three files are read anew for each connection, so a rotated certificate takes effect with the next one.
    pub cafile: Option<PathBuf>,
    /// User of etcd's own authentication.
    pub username: Option<String>,
    /// That user's password; never shown, not by `Debug` either.
    pub password: Option<String>,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, keyfile, certfile, cafile, username, password } = self;
        let endpoints: Vec<String> = endpoints.iter().map(|url| without_credentials(url)).collect();
        f.debug_struct("EtcdOptions")
            .field("endpoints", &endpoints)
            .field("prefix", prefix)
            .field("keyfile", keyfile)
            .field("certfile", certfile)
            .field("cafile", cafile)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "…"))
            .finish()
    }
}

/// An endpoint without the user and the password that somebody may have written into it.
pub(super) fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let Some((credentials, _)) = authority.rsplit_once('@') else { return url.to_owned() };
    let host = &rest[credentials.len() + 1..];
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_cut_out() {
        let table = [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://me:secret@127.0.0.1:2379/x@y", "http://127.0.0.1:2379/x@y"),
            ("http://me:s@cret@[::1]:2379", "http://[::1]:2379"),
            ("me:secret@host", "host"),
        ];
        for (url, name) in table {
            assert_eq!(without_credentials(url), name);
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let options = EtcdOptions {
            endpoints: vec!["https://me:sesame@host:2379".to_owned()],
            username: Some("me".to_owned()),
            password: Some("sesame".to_owned()),
            ..EtcdOptions::default()
        };
        let text = format!("{options:?} {options:#?}");
        assert!(!text.contains("sesame") && text.contains("https://host:2379"), "{text}");
    }
}
