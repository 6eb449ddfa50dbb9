//! `tls` and `sasl` of a Kafka source: how it proves who it is, and whom it believes.

use std::path::PathBuf;

use rdkafka::ClientConfig;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::finding::Mistake;
use crate::source::SourceError;

/// Files in PEM.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Certificates of the authorities that are trusted; without it, the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain.
    #[serde(default)]
    pub crt_file: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The private key's password.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub key_pass: Option<SecretString>,
    #[serde(default = "yes")]
    pub verify_certificate: bool,
    #[serde(default = "yes")]
    pub verify_hostname: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    pub mechanism: SaslMechanism,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub password: Option<SecretString>,
    /// A file that holds the password and nothing else, read at every connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Its `sasl.oauthbearer.…` settings stand in `librdkafka_options`.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl SaslMechanism {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

fn yes() -> bool {
    true
}

/// Sets what follows from the two tables. Reads the password file.
pub(super) async fn apply(
    tls: Option<&KafkaTls>,
    sasl: Option<&KafkaSasl>,
    client: &mut ClientConfig,
) -> Result<(), SourceError> {
    let tls = tls.filter(|tls| tls.enabled);
    let protocol = match (tls, sasl) {
        (None, None) => "PLAINTEXT",
        (Some(_), None) => "SSL",
        (None, Some(_)) => "SASL_PLAINTEXT",
        (Some(_), Some(_)) => "SASL_SSL",
    };
    client.set("security.protocol", protocol);
    if let Some(tls) = tls {
        tls.apply(client);
    }
    if let Some(sasl) = sasl {
        sasl.apply(client).await?;
    }
    Ok(())
}

impl KafkaTls {
    pub(super) fn validate(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.crt_file.is_some() != self.key_file.is_some() {
            let what = "`crt_file` and `key_file` are given together or not at all";
            mistakes.push(Mistake::new("tls", what));
        }
        if self.verify_hostname && !self.verify_certificate {
            let what = "an unverified certificate proves no host name: set it to false, too";
            mistakes.push(Mistake::new("tls.verify_hostname", what));
        }
        mistakes
    }

    fn apply(&self, client: &mut ClientConfig) {
        let files = [
            ("ssl.ca.location", &self.ca_file),
            ("ssl.certificate.location", &self.crt_file),
            ("ssl.key.location", &self.key_file),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                client.set(name, path.to_string_lossy());
            }
        }
        if let Some(password) = &self.key_pass {
            client.set("ssl.key.password", password.expose_secret());
        }
        if !self.verify_certificate {
            client.set("enable.ssl.certificate.verification", "false");
        }
        let identification = if self.verify_hostname {
            "https"
        } else {
            "none"
        };
        client.set("ssl.endpoint.identification.algorithm", identification);
    }
}

impl KafkaSasl {
    pub(super) fn validate(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.password.is_some() && self.password_file.is_some() {
            let what = "`password` and `password_file` are both given, expected one of them";
            mistakes.push(Mistake::new("sasl", what));
        }
        let needs_user = self.mechanism != SaslMechanism::OauthBearer;
        let has_user =
            self.username.is_some() && (self.password.is_some() || self.password_file.is_some());
        if needs_user && !has_user {
            let what = format!(
                "{} needs `username` and one of `password` and `password_file`",
                self.mechanism.as_str()
            );
            mistakes.push(Mistake::new("sasl", what));
        }
        mistakes
    }

    async fn apply(&self, client: &mut ClientConfig) -> Result<(), SourceError> {
        client.set("sasl.mechanism", self.mechanism.as_str());
        if let Some(username) = &self.username {
            client.set("sasl.username", username);
        }
        if let Some(password) = &self.password {
            client.set("sasl.password", password.expose_secret());
        }
        if let Some(path) = &self.password_file {
            let password = tokio::fs::read_to_string(path).await.map_err(|cause| {
                SourceError::new(format!("cannot read {}", path.display()))
                    .because(cause)
                    .needs_operator()
            })?;
            client.set("sasl.password", password.trim_end_matches(['\r', '\n']));
        }
        Ok(())
    }
}
