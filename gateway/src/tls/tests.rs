use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::time::{sleep, timeout};

use super::*;

/// A certificate and its key, in PEM.
fn pair(until: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key"), clients: None }
}

fn write(files: &TlsFiles, (certificate, key): &(String, String)) {
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
}

fn problem(files: &TlsFiles) -> String {
    CertificateFiles::open(files).map(|_| ()).unwrap_err()
}

#[test]
fn files_that_cannot_be_used_are_refused_at_start_without_their_contents() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let [certificate, key] = [&files.certificate, &files.key].map(|path| path.display().to_string());
    let (good, other) = (pair(2050), pair(2050));
    assert_eq!(problem(&files), format!("TLS_CERT_FILE: {certificate} cannot be read: entity not found"));
    let no_certificate = format!(
        "TLS_CERT_FILE: {certificate} contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE"
    );
    let no_key =
        format!("TLS_KEY_FILE: {key} contains no PEM private key: add one, from BEGIN PRIVATE KEY to END PRIVATE KEY");
    let not_its_key = format!(
        "TLS_KEY_FILE: {key} is not the key of the certificate in {certificate}: put a certificate and its own key there"
    );
    let long = format!("TLS_CERT_FILE: {certificate} is longer than 1048576 bytes: leave out what is not needed");
    for (contents, expected) in [
        (("nothing".to_owned(), good.1.clone()), no_certificate),
        ((good.0.clone(), "nothing".to_owned()), no_key),
        ((good.0.clone(), other.1), not_its_key),
        (("#".repeat(1024 * 1024 + 1), good.1.clone()), long),
    ] {
        write(&files, &contents);
        assert_eq!(problem(&files), expected);
    }
    write(&files, &good);
    let authority = folder.path().join("ca.crt");
    std::fs::write(&authority, "nothing").unwrap();
    let clients = Some(ClientAuthorities { file: authority.clone(), required: true });
    let expected = format!(
        "TLS_CLIENT_CA_FILE: {} contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE",
        authority.display()
    );
    assert_eq!(problem(&TlsFiles { clients, ..files }), expected);
}

#[tokio::test]
async fn a_good_new_certificate_is_used_and_a_bad_one_leaves_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (first, second, expired) = (pair(2050), pair(2051), pair(2020));
    write(&files, &first);
    let opened = CertificateFiles::open(&files).unwrap();
    let (certificate, metrics) = (opened.certificate(), Metrics::new());
    let following = opened.follow(metrics.clone());
    let until = async |year: f64, expected: Option<String>| {
        let state = || {
            let expires = 1970.0 + metrics.tls_certificate_expires.get() / (365.2425 * 86_400.0);
            (expires.round(), metrics.tls_certificate_ok.get(), certificate.problem.borrow().clone())
        };
        let wanted = (year, i64::from(expected.is_none()), expected);
        let there = async {
            while state() != wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), there).await.unwrap_or_else(|_| panic!("{:?}, not {wanted:?}", state()));
    };
    let path = files.certificate.display().to_string();
    let changes = async {
        until(2050.0, None).await;
        write(&files, &second);
        until(2051.0, None).await;
        write(&files, &expired);
        let refused =
            format!("TLS_CERT_FILE: {path} expired at 2020-01-01T00:00:00.000Z: put a valid certificate there");
        until(2051.0, Some(refused)).await;
        write(&files, &first);
        until(2050.0, None).await;
        std::fs::remove_file(&files.key).unwrap();
        let gone = format!("TLS_KEY_FILE: {} cannot be read: entity not found", files.key.display());
        until(2050.0, Some(gone)).await;
    };
    tokio::select! {
        () = following => panic!("it follows for ever"),
        () = changes => {}
    }
}
