//! A Kafka cluster, as outputs and `receive` name it: `BROKER[,BROKER...]/TOPIC[,OPTION...]`.
//!
//! This module parses what belongs to the connection (brokers, TLS, SASL, options of librdkafka) and
//! makes the configuration of librdkafka from it. It opens nothing but the file of the password, and
//! that only in [`Cluster::config`]. A password cannot be typed: all users of the host see the
//! command line. The client itself needs the cargo feature `kafka`; parsing does not.

use std::path::PathBuf;
#[cfg(feature = "kafka")]
use std::{fs, path::Path};

#[cfg(feature = "kafka")]
use rdkafka::{ClientConfig, error::KafkaError};

use super::net::Address;

/// Text for an operator whose program has no Kafka client.
#[cfg(not(feature = "kafka"))]
pub(crate) const MISSING: &str = "this program was built without Kafka; the packages, `cargo xtask build` and \
     `cargo build --features kafka` make programs that have it";

/// Options of a cluster, for messages.
pub(crate) const OPTIONS: &str = "`tls=on`, `ca=FILE`, `cert=FILE` together with `key-file=FILE`, `sasl=plain` or `scram-sha-256` or `scram-sha-512` \
     together with `user=NAME` and `password-file=FILE`, and `x-NAME=VALUE` for an option of librdkafka";

/// Where the records are, or go, and how the connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cluster {
    /// `HOST:PORT`, at least one.
    brokers: Vec<String>,
    /// `tls=on`, or implied by `ca=` and `cert=`.
    tls: Option<bool>,
    /// `ca=`: certificates of the authorities that must have signed a broker's certificate. Without
    /// it, those of the system.
    ca: Option<PathBuf>,
    /// `cert=`: this side's certificate.
    cert: Option<PathBuf>,
    /// `key-file=`: its private key.
    key: Option<PathBuf>,
    /// `sasl=`: mechanism.
    sasl: Option<Mechanism>,
    /// `user=`.
    user: Option<String>,
    /// `password-file=`: its first line is the password.
    password: Option<PathBuf>,
    /// `x-NAME=VALUE`: options of librdkafka.
    native: Vec<(String, String)>,
}

/// Mechanisms of SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mechanism {
    Plain,
    Scram256,
    Scram512,
}

impl Mechanism {
    const ALL: [(&'static str, Self); 3] = [
        ("plain", Self::Plain),
        ("scram-sha-256", Self::Scram256),
        ("scram-sha-512", Self::Scram512),
    ];
}

/// Options of librdkafka that others of ours set, or that must not stand on a command line.
fn refused(name: &str) -> Option<&'static str> {
    match name {
        "bootstrap.servers" | "metadata.broker.list" => Some("name the brokers before the topic"),
        "security.protocol" => Some("use `tls=` and `sasl=`"),
        "sasl.mechanism" | "sasl.mechanisms" => Some("use `sasl=`"),
        "sasl.username" => Some("use `user=`"),
        "statistics.interval.ms"
        | "log.queue"
        | "enabled_events"
        | "delivery.report.only.error"
        | "transactional.id" => Some("the agent needs its own value"),
        secret
            if ["password", ".pem", "secret"]
                .iter()
                .any(|part| secret.contains(part)) =>
        {
            Some("all users of the host can read the command line; use a file")
        }
        _ => None,
    }
}

/// Returns the first name of an option of librdkafka that has several. Otherwise the order in which options are set, which
/// is a matter of chance, would decide between them.
fn first_name(name: &str) -> &str {
    match name {
        "request.required.acks" => "acks",
        "queue.buffering.max.ms" => "linger.ms",
        "compression.codec" => "compression.type",
        "delivery.timeout.ms" => "message.timeout.ms",
        other => other,
    }
}

impl Cluster {
    /// Splits `BROKER[,BROKER...]/TOPIC[,OPTION...]`. Returns the cluster, the topic, and the
    /// options behind the comma.
    pub(crate) fn parse(rest: &str) -> Result<(Self, &str, Option<&str>), String> {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (brokers, rest) = rest.split_once('/').ok_or_else(|| {
            format!("`{rest}` names no topic; valid is `kafka:HOST:PORT[,HOST:PORT...]/TOPIC`")
        })?;
        let (topic, options) = rest
            .split_once(',')
            .map_or((rest, None), |(topic, options)| (topic, Some(options)));
        let brokers: Result<Vec<String>, String> = brokers.split(',').map(broker).collect();
        let cluster = Self {
            brokers: brokers?,
            ..Self::default()
        };
        Ok((cluster, topic, options))
    }

    /// Returns the brokers as they were typed.
    pub(crate) fn brokers(&self) -> String {
        self.brokers.join(",")
    }

    /// Sets an option. Returns false if it is none of a cluster.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let wrong = |problem: &str| Err(format!("`{name}={value}`: {problem}"));
        match name {
            "tls" => match value {
                "on" => self.tls = Some(true),
                "off" => self.tls = Some(false),
                _ => return wrong("valid are `on` and `off`"),
            },
            "ca" => self.ca = Some(value.into()),
            "cert" => self.cert = Some(value.into()),
            "key-file" => self.key = Some(value.into()),
            "sasl" => match Mechanism::ALL.iter().find(|(known, _)| *known == value) {
                Some((_, mechanism)) => self.sasl = Some(*mechanism),
                None => return wrong("valid are `plain`, `scram-sha-256` and `scram-sha-512`"),
            },
            "user" => self.user = Some(value.to_owned()),
            "password-file" => self.password = Some(value.into()),
            _ => {
                let Some(native) = name.strip_prefix("x-") else {
                    return Ok(false);
                };
                if let Some(why) = refused(native) {
                    // The value may be a secret, so it is not repeated.
                    return Err(format!("`{name}=`: {why}"));
                }
                let native = first_name(native);
                if self.native.iter().any(|(known, _)| known == native) {
                    return wrong("it is given twice");
                }
                self.native.push((native.to_owned(), value.to_owned()));
            }
        }
        Ok(true)
    }

    /// Checks what the options must fulfil together, and asks librdkafka about its own.
    pub(crate) fn check(&self) -> Result<(), String> {
        let needs = |option: &str, other: &str| Err(format!("`{option}` needs `{other}`"));
        match (&self.cert, &self.key) {
            (Some(_), None) => return needs("cert", "key-file"),
            (None, Some(_)) => return needs("key-file", "cert"),
            _ => {}
        }
        if self.tls == Some(false) && (self.ca.is_some() || self.cert.is_some()) {
            return Err("`ca` and `cert` are for TLS, which `tls=off` excludes".to_owned());
        }
        match (self.sasl, &self.user, &self.password) {
            (Some(_), None, _) => return needs("sasl", "user"),
            (Some(_), _, None) => return needs("sasl", "password-file"),
            (None, Some(_), _) => return needs("user", "sasl"),
            (None, _, Some(_)) => return needs("password-file", "sasl"),
            _ => {}
        }
        #[cfg(feature = "kafka")]
        self.plain()
            .create_native_config()
            .map_err(|error| explain(&error))?;
        Ok(())
    }

    /// Returns whether files are opened: certificates, keys, passwords.
    pub(crate) fn reads_files(&self) -> bool {
        self.is_tls() || self.password.is_some()
    }

    fn is_tls(&self) -> bool {
        self.tls.unwrap_or(self.ca.is_some() || self.cert.is_some())
    }

    /// Returns the configuration for librdkafka. Reads the password.
    #[cfg(feature = "kafka")]
    pub(crate) fn config(&self) -> Result<ClientConfig, String> {
        let mut config = self.plain();
        if let Some(path) = &self.password {
            config.set("sasl.password", password(path)?);
        }
        Ok(config)
    }

    /// Returns the configuration without the password.
    #[cfg(feature = "kafka")]
    fn plain(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers())
            .set("client.id", "dnstap-agent")
            // Brokers come back after minutes or hours; then the agent should not wait long.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "5000")
            .set("statistics.interval.ms", "1000");
        let protocol = match (self.is_tls(), self.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if self.is_tls() {
            // `probe`: the places of the distributions. OpenSSL is linked statically, and so does not know this
            // system's.
            let ca = self.ca.as_deref().unwrap_or(Path::new("probe"));
            for (name, path) in [
                ("ssl.ca.location", Some(ca)),
                ("ssl.certificate.location", self.cert.as_deref()),
                ("ssl.key.location", self.key.as_deref()),
            ] {
                if let Some(path) = path {
                    config.set(name, path.to_string_lossy());
                }
            }
        }
        if let Some(mechanism) = self.sasl {
            config.set(
                "sasl.mechanism",
                match mechanism {
                    Mechanism::Plain => "PLAIN",
                    Mechanism::Scram256 => "SCRAM-SHA-256",
                    Mechanism::Scram512 => "SCRAM-SHA-512",
                },
            );
        }
        if let Some(user) = &self.user {
            config.set("sasl.username", user);
        }
        for (name, value) in &self.native {
            config.set(name, value);
        }
        config
    }
}

/// Checks `HOST:PORT`.
fn broker(text: &str) -> Result<String, String> {
    match format!("tcp:{text}").parse::<Address>() {
        Ok(address) if address.port() != Some(0) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is not HOST:PORT as in `kafka:broker.example:9092/dnstap` or `kafka:[::1]:9092/dnstap`"
        )),
    }
}

/// Returns what librdkafka says about an option.
#[cfg(feature = "kafka")]
pub(crate) fn explain(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, name, value) => {
            format!("`x-{name}={value}`: librdkafka says: {why}")
        }
        KafkaError::ClientCreation(why) => why.clone(),
        other => other.to_string(),
    }
}

/// Returns the first line of the file.
#[cfg(feature = "kafka")]
fn password(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("cannot read the password in {}: {error}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(format!(
            "{}: its first line must be the password",
            path.display()
        ));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn cluster(text: &str) -> Result<Cluster, String> {
        let (mut cluster, _, options) = Cluster::parse(text)?;
        for option in options.into_iter().flat_map(|text| text.split(',')) {
            let (name, value) = option.split_once('=').ok_or("no value")?;
            if !cluster.set(name, value)? {
                return Err(format!("{name} is unknown"));
            }
        }
        cluster.check().map(|()| cluster)
    }

    #[test]
    fn brokers_topic_and_options_are_told_apart() {
        let parsed = Cluster::parse("//a:9092,[::1]:9093/dns.tap,ca=/x/y,key=none");
        let (cluster, topic, options) = parsed.expect("valid");
        assert_eq!(cluster.brokers(), "a:9092,[::1]:9093");
        assert_eq!((topic, options), ("dns.tap", Some("ca=/x/y,key=none")));
    }

    #[rstest]
    #[case::no_topic("a:9092", "names no topic")]
    #[case::no_port("a/t", "HOST:PORT")]
    #[case::port_0("a:0/t", "HOST:PORT")]
    #[case::no_broker("/t", "HOST:PORT")]
    #[case::empty_broker("a:1,,b:2/t", "HOST:PORT")]
    #[case::tls("a:1/t,tls=yes", "`on` and `off`")]
    #[case::no_key("a:1/t,cert=c", "needs `key-file`")]
    #[case::no_cert("a:1/t,key-file=c", "needs `cert`")]
    #[case::not_tls("a:1/t,tls=off,ca=c", "`tls=off` excludes")]
    #[case::mechanism("a:1/t,sasl=gssapi", "scram-sha-512")]
    #[case::no_user("a:1/t,sasl=plain,password-file=p", "needs `user`")]
    #[case::no_password("a:1/t,sasl=plain,user=u", "needs `password-file`")]
    #[case::no_sasl("a:1/t,user=u", "needs `sasl`")]
    #[case::own("a:1/t,x-bootstrap.servers=b", "before the topic")]
    #[case::reports("a:1/t,x-delivery.report.only.error=true", "its own value")]
    #[case::twice("a:1/t,x-linger.ms=5,x-queue.buffering.max.ms=6", "given twice")]
    fn what_makes_no_sense_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = cluster(text).expect_err("refused");
        assert!(error.contains(why), "{error}");
    }

    #[rstest]
    #[case("sasl.password")]
    #[case("ssl.key.pem")]
    #[case("ssl.keystore.password")]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated(#[case] name: &str) {
        let error = cluster(&format!("a:1/t,x-{name}=hunter2")).expect_err("refused");
        assert!(
            error.contains("use a file") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[cfg(feature = "kafka")]
    #[rstest]
    #[case("a:1/t,x-linger.ms=many", "linger.ms")]
    #[case("a:1/t,x-no.such=1", "No such configuration property")]
    fn librdkafka_says_itself_what_is_wrong_with_its_options(
        #[case] text: &str,
        #[case] why: &str,
    ) {
        let error = cluster(text).expect_err("refused");
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn certificates_imply_tls_and_files() {
        assert!(cluster("a:1/t,ca=c").expect("valid").reads_files());
        assert!(!cluster("a:1/t,x-linger.ms=5").expect("valid").reads_files());
    }
}
