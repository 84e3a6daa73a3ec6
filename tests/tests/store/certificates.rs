//! Certificates for an etcd and its clients, good and bad ones.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, GeneralSubtree, IsCa, KeyPair,
    NameConstraints, date_time_ymd,
};

/// A CA with its files in a directory.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// PEM files of a certificate and its key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// With its own certificate in `ca.pem` below `directory`, which is made.
    pub(crate) fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let issuer = CertifiedIssuer::self_signed(ca_for(&[]), KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory: directory.to_owned() }
    }

    /// Its certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for servers called `hosts`, or of a client where there are none; written over an earlier one of
    /// this name.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign(name, &params(hosts))
    }

    /// The same, but out of date.
    pub(crate) fn issue_expired(&self, name: &str, hosts: &[&str]) -> Pair {
        let mut params = params(hosts);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        write(&self.directory, name, &cert.pem(), &key)
    }
}

/// What `openssl req -x509` makes: a certificate that is its own CA.
pub(crate) fn self_signed(directory: &Path, hosts: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let cert = ca_for(hosts).self_signed(&key).unwrap();
    write(directory, "self-signed", &cert.pem(), &key)
}

/// A certificate that is signed with its own key, is no CA's, and lets what it signs be called `elsewhere` only.
pub(crate) fn self_signed_for_elsewhere(directory: &Path, hosts: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = params(hosts);
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let cert = params.self_signed(&key).unwrap();
    write(directory, "for-elsewhere", &cert.pem(), &key)
}

fn params(hosts: &[&str]) -> CertificateParams {
    CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

fn ca_for(hosts: &[&str]) -> CertificateParams {
    let mut params = params(hosts);
    params.distinguished_name.push(DnType::CommonName, "a CA of these tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn write(directory: &Path, name: &str, cert: &str, key: &KeyPair) -> Pair {
    let pair =
        Pair { cert: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) };
    fs::write(&pair.cert, cert).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    pair
}
