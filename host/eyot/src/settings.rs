//! The settings of the host: one definition that gives the flags, the environment variables and
//! the keys of the configuration file.
//!
//! What is set twice is taken from the flag first, then the environment, then the file, then the
//! default. [`Settings`] is what was said; [`Resolved`] is what holds.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use eyot_apiserver::{ServiceRanges, audit::LogOptions};
use eyot_control::{NodeRanges, Range};
use eyot_network::Cidr;
use serde::Deserialize;

/// Every setting as it may be given; nothing here has a default yet.
#[derive(Debug, Default, Clone, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Directory for everything that is kept [default: /var/lib/eyot for root, else
    /// ~/.local/share/eyot]
    #[arg(long, env = "EYOT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database to keep objects in, which several hosts may share, as
    /// `postgres://user:password@host/database` [default: a file in the data directory]
    #[arg(long, env = "EYOT_STORE", value_name = "URL", hide_env_values = true)]
    pub store: Option<String>,
    /// File with the token that opens the keys which servers of one PostgreSQL database share; the
    /// first of them makes it [default: pki/server-token in the data directory]
    #[arg(long, env = "EYOT_SERVER_TOKEN_FILE", value_name = "FILE")]
    pub server_token_file: Option<PathBuf>,
    /// Where the Kubernetes API listens (HTTPS) [default: 127.0.0.1:6443]
    #[arg(long, env = "EYOT_API_ADDRESS", value_name = "IP:PORT")]
    pub api_address: Option<SocketAddr>,
    /// Where the image registry listens [default: 127.0.0.1:5000]
    #[arg(long, env = "EYOT_REGISTRY_ADDRESS", value_name = "IP:PORT")]
    pub registry_address: Option<SocketAddr>,
    /// Where the MQTT broker listens [default: 127.0.0.1:1883]
    #[arg(long, env = "EYOT_MQTT_ADDRESS", value_name = "IP:PORT")]
    pub mqtt_address: Option<SocketAddr>,
    /// Whether MQTT clients of other machines must use TLS; the certificate is the API's [default:
    /// unless the broker is on loopback]
    #[arg(long, env = "EYOT_MQTT_TLS", value_name = "BOOL")]
    pub mqtt_tls: Option<bool>,
    /// File with those of other machines who may use the MQTT broker, one `NAME:PASSWORD` a line
    /// [default: on loopback anybody, else mqtt-users in the data directory, made at the first start]
    #[arg(long, env = "EYOT_MQTT_USERS", value_name = "FILE")]
    pub mqtt_users: Option<PathBuf>,
    /// Another MQTT broker in place of the host's own, `mqtt://[USER@]HOST[:PORT]` or `mqtts://…`; the
    /// host is its client `eyot-NODE` [default: the host's own, at mqtt-address]
    #[arg(long, env = "EYOT_MQTT_BROKER", value_name = "URL")]
    pub mqtt_broker: Option<String>,
    /// File with the password for mqtt-broker [default: none]
    #[arg(long, env = "EYOT_MQTT_BROKER_PASSWORD_FILE", value_name = "FILE")]
    pub mqtt_broker_password_file: Option<PathBuf>,
    /// File with the authorities (PEM) that vouch for mqtt-broker [default: those that the machine
    /// trusts]
    #[arg(long, env = "EYOT_MQTT_BROKER_CA_FILE", value_name = "FILE")]
    pub mqtt_broker_ca_file: Option<PathBuf>,
    /// How many of the devices' events are kept, each with its readings; the oldest go [default:
    /// 100000]
    #[arg(long, env = "EYOT_READINGS_EVENTS", value_name = "N")]
    pub readings_events: Option<usize>,
    /// How long the devices' events are kept, for example 168h [default: as long as there is room]
    #[arg(long, env = "EYOT_READINGS_AGE", value_name = "DURATION")]
    pub readings_age: Option<String>,
    /// Where EdgeX core-data listens [default: 127.0.0.1:59880]
    #[arg(long, env = "EYOT_CORE_DATA_ADDRESS", value_name = "IP:PORT")]
    pub core_data_address: Option<SocketAddr>,
    /// Where EdgeX core-metadata listens [default: 127.0.0.1:59881]
    #[arg(long, env = "EYOT_CORE_METADATA_ADDRESS", value_name = "IP:PORT")]
    pub core_metadata_address: Option<SocketAddr>,
    /// Where EdgeX core-command listens [default: 127.0.0.1:59882]
    #[arg(long, env = "EYOT_CORE_COMMAND_ADDRESS", value_name = "IP:PORT")]
    pub core_command_address: Option<SocketAddr>,
    /// Where EdgeX core-keeper listens [default: 127.0.0.1:59890]
    #[arg(long, env = "EYOT_CORE_KEEPER_ADDRESS", value_name = "IP:PORT")]
    pub core_keeper_address: Option<SocketAddr>,
    /// Where EdgeX clients reach the device services of drivers, each below its name [default: 127.0.0.1:59900]
    #[arg(long, env = "EYOT_DEVICE_SERVICES_ADDRESS", value_name = "IP:PORT")]
    pub device_services_address: Option<SocketAddr>,
    /// Where EdgeX support-notifications listens [default: 127.0.0.1:59860]
    #[arg(
        long,
        env = "EYOT_SUPPORT_NOTIFICATIONS_ADDRESS",
        value_name = "IP:PORT"
    )]
    pub support_notifications_address: Option<SocketAddr>,
    /// Where EdgeX support-scheduler listens [default: 127.0.0.1:59863]
    #[arg(long, env = "EYOT_SUPPORT_SCHEDULER_ADDRESS", value_name = "IP:PORT")]
    pub support_scheduler_address: Option<SocketAddr>,
    /// Who takes e-mail of notifications, `smtp://HOST:PORT?sender=ADDRESS`; `smtps://` begins with
    /// TLS, `&subject=…` and `&verify=false` may follow; user and password are in the Secret `smtp`
    /// [default: nobody]
    #[arg(long, env = "EYOT_SMTP", value_name = "URL")]
    pub smtp: Option<String>,
    /// Where Ingresses are served over HTTP [default: 127.0.0.1:80, if that can be had]
    #[arg(long, env = "EYOT_INGRESS_ADDRESS", value_name = "IP:PORT")]
    pub ingress_address: Option<SocketAddr>,
    /// Where Ingresses are served over HTTPS [default: 127.0.0.1:443, if that can be had]
    #[arg(long, env = "EYOT_INGRESS_TLS_ADDRESS", value_name = "IP:PORT")]
    pub ingress_tls_address: Option<SocketAddr>,
    /// Name of this machine's Node object [default: the host name]
    #[arg(long, env = "EYOT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses for pods, a /24 [default: 10.244.0.0/24]
    #[arg(long, env = "EYOT_POD_CIDR", value_name = "IP/24")]
    pub pod_cidr: Option<String>,
    /// Addresses for the pods of all nodes, out of which each gets a range as large as this one's
    /// [default: the /16 that pod-cidr is in]
    #[arg(long, env = "EYOT_CLUSTER_CIDR", value_name = "IP/BITS")]
    pub cluster_cidr: Option<String>,
    /// Addresses for services; a second range of the other family may follow after a comma
    /// [default: 10.96.0.0/12]
    #[arg(long, env = "EYOT_SERVICE_CIDR", value_name = "IP/BITS")]
    pub service_cidr: Option<String>,
    /// Name of the bridge that pods are connected to [default: eyot0]
    #[arg(long, env = "EYOT_BRIDGE", value_name = "NAME")]
    pub bridge: Option<String>,
    /// End all pods when the host stops; otherwise containers go on without it, and the next start
    /// takes them on again
    #[arg(long, env = "EYOT_STOP_PODS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub stop_pods: Option<bool>,
    /// File with tokens of users, one `token,user,uid,"group,group"` a line [default: none]
    #[arg(long, env = "EYOT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Who issues the tokens of service accounts [default:
    /// `https://kubernetes.default.svc.cluster.local`]
    #[arg(long, env = "EYOT_SERVICE_ACCOUNT_ISSUER", value_name = "URL")]
    pub service_account_issuer: Option<String>,
    /// Other issuers of tokens (OpenID Connect) and anonymous requests
    /// (`AuthenticationConfiguration`) [default: no issuers; anonymous anywhere]
    #[arg(long, env = "EYOT_AUTHENTICATION_CONFIG", value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// What those may do in the registry who show no token [default: everything on loopback, else
    /// nothing]
    #[arg(long, env = "EYOT_REGISTRY_ANONYMOUS", value_enum)]
    pub registry_anonymous: Option<RegistryAnonymous>,
    /// Whether the registry speaks TLS, with the API's certificate [default: unless it is on
    /// loopback]
    #[arg(long, env = "EYOT_REGISTRY_TLS", value_name = "BOOL")]
    pub registry_tls: Option<bool>,
    /// How other registries are spoken to: mirrors, authorities, plain HTTP, where names without a
    /// host are looked for (TOML) [default: docker.io for names without a host, no mirrors]
    #[arg(long, env = "EYOT_REGISTRIES", value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Configuration of admission (`AdmissionConfiguration`): Pod Security Standards of namespaces
    /// without labels, and who is exempt [default: none]
    #[arg(long, env = "EYOT_ADMISSION_CONTROL_CONFIG_FILE", value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// How pods are placed on nodes (`KubeSchedulerConfiguration`) [default: as Kubernetes does]
    #[arg(long, env = "EYOT_SCHEDULER_CONFIG", value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Policy (`audit.k8s.io/v1`) that says which requests to the API are recorded [default: none
    /// are]
    #[arg(long, env = "EYOT_AUDIT_POLICY", value_name = "FILE")]
    pub audit_policy: Option<PathBuf>,
    /// File that requests are recorded in, one event a line; `-` is standard output [default:
    /// audit.log in the data directory]
    #[arg(long, env = "EYOT_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Megabytes at which the audit log is turned over; 0 never [default: 100]
    #[arg(long, env = "EYOT_AUDIT_LOG_MAX_SIZE", value_name = "MB")]
    pub audit_log_max_size: Option<u32>,
    /// Days to keep old audit logs; 0 for ever [default: 0]
    #[arg(long, env = "EYOT_AUDIT_LOG_MAX_AGE", value_name = "DAYS")]
    pub audit_log_max_age: Option<u32>,
    /// How many old audit logs to keep; 0 all [default: 10]
    #[arg(long, env = "EYOT_AUDIT_LOG_MAX_BACKUPS", value_name = "N")]
    pub audit_log_max_backups: Option<u32>,
    /// Carry out `privileged: true` of containers, which can then do with this machine what the host
    /// can [default: false]
    #[arg(
        long,
        env = "EYOT_ALLOW_PRIVILEGED",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub allow_privileged: Option<bool>,
    /// Tasks (processes and threads) that one pod may have [default: 4096 for each container]
    #[arg(long, env = "EYOT_POD_PIDS_LIMIT", value_name = "N")]
    pub pod_pids_limit: Option<u64>,
    /// The address by which other machines reach this one [default: that of the API's address if it has
    /// one of its own, else the one that packets to the outside carry]
    #[arg(long, env = "EYOT_NODE_IP", value_name = "IP")]
    pub node_ip: Option<std::net::IpAddr>,
    /// Pods that this node takes [default: 110]
    #[arg(long, env = "EYOT_MAX_PODS", value_name = "N")]
    pub max_pods: Option<u32>,
    /// When pods are evicted, as a kubelet's `evictionHard`; nothing after the `=` means never
    /// [default: memory.available<100Mi,nodefs.available<1Gi]
    #[arg(long, env = "EYOT_EVICTION_HARD", value_name = "THRESHOLDS")]
    pub eviction_hard: Option<String>,
    /// Kernel parameters that pods may set beside the safe ones, for example
    /// `net.core.somaxconn,kernel.msg*` [default: none]
    #[arg(long, env = "EYOT_ALLOWED_UNSAFE_SYSCTLS", value_name = "NAMES")]
    pub allowed_unsafe_sysctls: Option<String>,
    /// What to log, for example `info` or `info,eyot_node=debug` [default: info]
    #[arg(long, env = "EYOT_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How to write the log [default: text on a terminal, else json]
    #[arg(long, env = "EYOT_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// What those may do who do not say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistryAnonymous {
    Nothing,
    Read,
    Everything,
}

impl From<RegistryAnonymous> for eyot_registry::Anonymous {
    fn from(setting: RegistryAnonymous) -> Self {
        match setting {
            RegistryAnonymous::Nothing => Self::Nothing,
            RegistryAnonymous::Read => Self::Read,
            RegistryAnonymous::Everything => Self::Everything,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Text,
    Json,
}

/// The settings that hold.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub data_dir: PathBuf,
    pub store: Option<String>,
    pub server_token_file: Option<PathBuf>,
    pub api_address: SocketAddr,
    pub registry_address: SocketAddr,
    pub mqtt_address: SocketAddr,
    pub mqtt_tls: bool,
    /// `None` on loopback: anybody.
    pub mqtt_users: Option<MqttUsers>,
    /// In place of the host's own.
    pub mqtt_broker: Option<MqttBroker>,
    pub readings: eyot_store::Retention,
    pub core_data_address: SocketAddr,
    pub core_metadata_address: SocketAddr,
    pub core_command_address: SocketAddr,
    pub core_keeper_address: SocketAddr,
    pub device_services_address: SocketAddr,
    pub support_notifications_address: SocketAddr,
    pub support_scheduler_address: SocketAddr,
    pub mail: Option<eyot_support::MailServer>,
    /// `None`: the usual port, if that can be had.
    pub ingress_address: Option<SocketAddr>,
    /// The same over TLS.
    pub ingress_tls_address: Option<SocketAddr>,
    pub node_name: String,
    pub pod_cidr: Cidr,
    /// What is given to nodes.
    pub node_ranges: NodeRanges,
    pub services: ServiceRanges,
    pub bridge: String,
    pub stop_pods: bool,
    pub token_file: Option<PathBuf>,
    pub service_account_issuer: Option<String>,
    pub authentication_config: Option<PathBuf>,
    pub admission_control_config_file: Option<PathBuf>,
    pub scheduler_config: Option<PathBuf>,
    pub registries: Option<PathBuf>,
    pub registry_anonymous: RegistryAnonymous,
    pub registry_tls: bool,
    pub audit: Option<AuditSettings>,
    /// What the node lets pods have.
    pub policy: eyot_node::Policy,
}

/// A broker that the host is a client of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttBroker {
    pub url: String,
    pub password: Option<PathBuf>,
    pub authorities: Option<PathBuf>,
}

/// Who of other machines may use the MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MqttUsers {
    /// Those in a file that is there.
    File(PathBuf),
    /// One, in a file that is made if need be.
    Made(PathBuf),
}

/// Which requests are recorded, and where.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    pub policy: PathBuf,
    pub log: LogOptions,
}

impl Settings {
    /// Read a configuration file. An error names the file, the line and the key.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("configuration file {} cannot be read", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("configuration file {} is not right", path.display()))
    }

    /// What `self` leaves open is taken from `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            store: self.store.or(other.store),
            server_token_file: self.server_token_file.or(other.server_token_file),
            api_address: self.api_address.or(other.api_address),
            registry_address: self.registry_address.or(other.registry_address),
            mqtt_address: self.mqtt_address.or(other.mqtt_address),
            mqtt_tls: self.mqtt_tls.or(other.mqtt_tls),
            mqtt_users: self.mqtt_users.or(other.mqtt_users),
            mqtt_broker: self.mqtt_broker.or(other.mqtt_broker),
            mqtt_broker_password_file: self
                .mqtt_broker_password_file
                .or(other.mqtt_broker_password_file),
            mqtt_broker_ca_file: self.mqtt_broker_ca_file.or(other.mqtt_broker_ca_file),
            readings_events: self.readings_events.or(other.readings_events),
            readings_age: self.readings_age.or(other.readings_age),
            core_data_address: self.core_data_address.or(other.core_data_address),
            core_metadata_address: self.core_metadata_address.or(other.core_metadata_address),
            core_command_address: self.core_command_address.or(other.core_command_address),
            core_keeper_address: self.core_keeper_address.or(other.core_keeper_address),
            device_services_address: self
                .device_services_address
                .or(other.device_services_address),
            support_notifications_address: self
                .support_notifications_address
                .or(other.support_notifications_address),
            support_scheduler_address: self
                .support_scheduler_address
                .or(other.support_scheduler_address),
            smtp: self.smtp.or(other.smtp),
            ingress_address: self.ingress_address.or(other.ingress_address),
            ingress_tls_address: self.ingress_tls_address.or(other.ingress_tls_address),
            node_name: self.node_name.or(other.node_name),
            pod_cidr: self.pod_cidr.or(other.pod_cidr),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            service_cidr: self.service_cidr.or(other.service_cidr),
            bridge: self.bridge.or(other.bridge),
            stop_pods: self.stop_pods.or(other.stop_pods),
            token_file: self.token_file.or(other.token_file),
            service_account_issuer: self.service_account_issuer.or(other.service_account_issuer),
            authentication_config: self.authentication_config.or(other.authentication_config),
            admission_control_config_file: self
                .admission_control_config_file
                .or(other.admission_control_config_file),
            scheduler_config: self.scheduler_config.or(other.scheduler_config),
            registries: self.registries.or(other.registries),
            registry_anonymous: self.registry_anonymous.or(other.registry_anonymous),
            registry_tls: self.registry_tls.or(other.registry_tls),
            audit_policy: self.audit_policy.or(other.audit_policy),
            audit_log: self.audit_log.or(other.audit_log),
            audit_log_max_size: self.audit_log_max_size.or(other.audit_log_max_size),
            audit_log_max_age: self.audit_log_max_age.or(other.audit_log_max_age),
            audit_log_max_backups: self.audit_log_max_backups.or(other.audit_log_max_backups),
            allow_privileged: self.allow_privileged.or(other.allow_privileged),
            pod_pids_limit: self.pod_pids_limit.or(other.pod_pids_limit),
            node_ip: self.node_ip.or(other.node_ip),
            max_pods: self.max_pods.or(other.max_pods),
            eviction_hard: self.eviction_hard.or(other.eviction_hard),
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls.or(other.allowed_unsafe_sysctls),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }

    /// Fill in the defaults and check what can be checked without touching anything.
    pub fn resolve(self) -> anyhow::Result<Resolved> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let data_dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        let audit = self.audit(&data_dir)?;
        let readings = self.readings()?;
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        check_node_name(&node_name)?;
        let pod_cidr = self.pod_cidr.as_deref().unwrap_or("10.244.0.0/24");
        let node_ranges = node_ranges(&node_name, pod_cidr, self.cluster_cidr.as_deref())?;
        let of_its_own = |ip: &std::net::IpAddr| !ip.is_loopback() && !ip.is_unspecified();
        let api_ip = self.api_address.map(|address| address.ip());
        let policy = eyot_node::Policy {
            address: self.node_ip.or(api_ip.filter(of_its_own)),
            privileged: self.allow_privileged.unwrap_or(false),
            pod_pids: self.pod_pids_limit,
            pods: self.max_pods,
            eviction: match &self.eviction_hard {
                Some(text) => eyot_node::Thresholds::parse(text)
                    .map_err(|why| anyhow::anyhow!("eviction-hard: {why}"))?,
                None => eyot_node::Thresholds::default(),
            },
            unsafe_sysctls: names(self.allowed_unsafe_sysctls.as_deref().unwrap_or_default()),
        };
        if let Err(message) = policy.check_sysctls() {
            bail!("allowed-unsafe-sysctls: {message}");
        }
        if policy.pod_pids == Some(0) {
            bail!("pod-pids-limit 0: no pod could run; leave it out for the default");
        }
        if policy
            .address
            .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            bail!("node-ip: nobody is reached there; give an address of this machine");
        }
        if policy.pods == Some(0) {
            bail!("max-pods 0: no pod could run; leave it out for the default");
        }
        let registry_address = self.registry_address.unwrap_or(local(5000));
        let registry_is_local = registry_address.ip().is_loopback();
        let mqtt_address = self.mqtt_address.unwrap_or(local(1883));
        let mqtt_is_local = mqtt_address.ip().is_loopback();
        let mqtt_broker = self.mqtt_broker.clone().map(|url| MqttBroker {
            url,
            password: self.mqtt_broker_password_file.clone(),
            authorities: self.mqtt_broker_ca_file.clone(),
        });
        if mqtt_broker.is_none()
            && (self.mqtt_broker_password_file.is_some() || self.mqtt_broker_ca_file.is_some())
        {
            bail!(
                "mqtt-broker-password-file and mqtt-broker-ca-file are for mqtt-broker: set that, too"
            );
        }
        let mqtt_users = match self.mqtt_users.clone() {
            Some(file) => Some(MqttUsers::File(file)),
            None if mqtt_is_local => None,
            None => Some(MqttUsers::Made(data_dir.join("mqtt-users"))),
        };
        Ok(Resolved {
            policy,
            registry_anonymous: self.registry_anonymous.unwrap_or(match registry_is_local {
                true => RegistryAnonymous::Everything,
                false => RegistryAnonymous::Nothing,
            }),
            registry_tls: self.registry_tls.unwrap_or(!registry_is_local),
            audit,
            data_dir,
            store: self.store,
            server_token_file: self.server_token_file,
            api_address: self.api_address.unwrap_or(local(6443)),
            registry_address,
            mqtt_address,
            mqtt_tls: self.mqtt_tls.unwrap_or(!mqtt_is_local),
            mqtt_users,
            mqtt_broker,
            readings,
            core_data_address: self.core_data_address.unwrap_or(local(59880)),
            core_metadata_address: self.core_metadata_address.unwrap_or(local(59881)),
            core_command_address: self.core_command_address.unwrap_or(local(59882)),
            core_keeper_address: self.core_keeper_address.unwrap_or(local(59890)),
            device_services_address: self.device_services_address.unwrap_or(local(59900)),
            support_notifications_address: self
                .support_notifications_address
                .unwrap_or(local(59860)),
            support_scheduler_address: self.support_scheduler_address.unwrap_or(local(59863)),
            mail: self
                .smtp
                .as_deref()
                .map(str::parse)
                .transpose()
                .context("smtp")?,
            ingress_address: self.ingress_address,
            ingress_tls_address: self.ingress_tls_address,
            node_name,
            pod_cidr: pod_cidr.parse().context("pod-cidr")?,
            node_ranges,
            services: match &self.service_cidr {
                Some(ranges) => ServiceRanges::parse(ranges, ServiceRanges::NODE_PORTS)
                    .context("service-cidr")?,
                None => ServiceRanges::default(),
            },
            bridge: check_bridge(self.bridge.unwrap_or_else(|| "eyot0".to_owned()))?,
            stop_pods: self.stop_pods.unwrap_or(false),
            token_file: self.token_file,
            service_account_issuer: self.service_account_issuer,
            authentication_config: self.authentication_config,
            admission_control_config_file: self.admission_control_config_file,
            scheduler_config: self.scheduler_config,
            registries: self.registries,
        })
    }

    fn readings(&self) -> anyhow::Result<eyot_store::Retention> {
        let default = eyot_store::Retention::default();
        let events = self.readings_events.unwrap_or(default.events);
        if !(1..=eyot_store::EVENTS_AT_MOST).contains(&events) {
            bail!(
                "readings-events {events}: 1 to {} can be kept",
                eyot_store::EVENTS_AT_MOST
            );
        }
        let age = self.readings_age.as_deref().map(eyot_api::parse_duration);
        let age = age.transpose().context("readings-age")?;
        if age.is_some_and(|age| age.is_zero()) {
            bail!("readings-age 0: nothing would be kept; leave it out to keep events of any age");
        }
        Ok(eyot_store::Retention { events, age })
    }

    fn audit(&self, data_dir: &Path) -> anyhow::Result<Option<AuditSettings>> {
        let Some(policy) = self.audit_policy.clone() else {
            if self.audit_log.is_some() {
                bail!("audit-log without audit-policy: nothing would be recorded");
            }
            return Ok(None);
        };
        let unless_zero = |number: u32| (number > 0).then_some(number);
        let days = unless_zero(self.audit_log_max_age.unwrap_or(0));
        let log = LogOptions {
            path: match &self.audit_log {
                Some(path) => path.clone(),
                None => data_dir.join("audit.log"),
            },
            max_size: u64::from(self.audit_log_max_size.unwrap_or(100)) * 1024 * 1024,
            max_age: days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600)),
            max_backups: unless_zero(self.audit_log_max_backups.unwrap_or(10)).map(|n| n as usize),
        };
        Ok(Some(AuditSettings { policy, log }))
    }
}

/// What nodes get their ranges of addresses from.
fn node_ranges(own: &str, pods: &str, cluster: Option<&str>) -> anyhow::Result<NodeRanges> {
    let pods: Range = pods.parse().context("pod-cidr")?;
    let cluster = match cluster {
        Some(cluster) => cluster.parse().context("cluster-cidr")?,
        None => pods.widened(16),
    };
    if !cluster.contains(pods) {
        bail!("cluster-cidr {cluster} does not hold this host's own pod-cidr {pods}");
    }
    Ok(NodeRanges {
        cluster,
        own: (own.to_owned(), pods),
    })
}

/// What stands between commas.
fn names(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Refuse environment variables that look like settings and are none: a misspelt name would
/// otherwise be ignored in silence.
pub fn check_environment(known: &[String]) -> anyhow::Result<()> {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("EYOT_") && !known.iter().any(|k| *k == name) {
            bail!(
                "environment variable {name} is no setting of eyot; the settings are {}",
                known.join(", ")
            );
        }
    }
    Ok(())
}

/// Where a user's or the machine's data is kept if nothing is said.
pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/eyot"));
    }
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("eyot"));
    }
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .context("HOME is not set, so there is no default data directory: give --data-dir")?;
    Ok(PathBuf::from(home).join(".local/share/eyot"))
}

/// The machine's name, made fit for a Node's name and for a certificate.
pub fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("the host name cannot be read: give --node-name")?;
    let name = name.trim().to_lowercase();
    // A Node is named as a DNS name; a host name may have more in it.
    let clean: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let clean = clean.trim_matches(['-', '.']);
    Ok(if clean.is_empty() {
        "eyot".to_owned()
    } else {
        clean.to_owned()
    })
}

fn check_node_name(name: &str) -> anyhow::Result<()> {
    let label = |l: &str| {
        !l.is_empty()
            && l.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        bail!(
            "node-name {name:?}: use lower-case letters, digits, '-' and '.', \
             beginning and ending with a letter or digit"
        );
    }
    Ok(())
}

/// The kernel allows 15 characters without blanks and slashes.
fn check_bridge(name: String) -> anyhow::Result<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 15 || !name.chars().all(good) {
        bail!("bridge {name:?}: use at most 15 letters, digits, '-' and '_'");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file: Settings =
            toml::from_str("api-address = '127.0.0.1:7001'\nnode-name = 'from-file'").unwrap();
        let flags = Settings {
            node_name: Some("from-flag".into()),
            ..Settings::default()
        };
        let holds = flags.or(file).resolve().unwrap();
        assert_eq!(holds.node_name, "from-flag");
        assert_eq!(holds.api_address.port(), 7001);
        assert_eq!(holds.mqtt_address.port(), 1883);
    }

    #[test]
    fn an_audit_policy_brings_a_log_that_is_bounded() {
        let settings: Settings = toml::from_str(
            "data-dir = '/data'\naudit-policy = '/etc/policy.yaml'\naudit-log-max-age = 7",
        )
        .unwrap();
        let audit = settings.resolve().unwrap().audit.unwrap();
        assert_eq!(audit.log.path, Path::new("/data/audit.log"));
        assert_eq!(audit.log.max_size, 100 << 20);
        assert_eq!(audit.log.max_age, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(audit.log.max_backups, Some(10));
    }

    #[test]
    fn a_registry_that_others_reach_is_closed_unless_it_is_said_to_be_open() {
        let with = |text: &str| {
            let settings: Settings = toml::from_str(text).unwrap();
            let resolved = settings.resolve().unwrap();
            (resolved.registry_anonymous, resolved.registry_tls)
        };
        let (all, none) = (RegistryAnonymous::Everything, RegistryAnonymous::Nothing);
        assert_eq!(with("registry-address = '127.0.0.1:1'"), (all, false));
        assert_eq!(with("registry-address = '0.0.0.0:5000'"), (none, true));
        let read = "registry-address = '0.0.0.0:5000'\nregistry-anonymous = 'read'\n\
                    registry-tls = false";
        assert_eq!(with(read), (RegistryAnonymous::Read, false));
    }

    #[test]
    fn a_broker_that_others_reach_asks_for_passwords_over_tls() {
        let with = |text: &str| {
            let settings: Settings = toml::from_str(&format!("data-dir = '/d'\n{text}")).unwrap();
            let resolved = settings.resolve().unwrap();
            (resolved.mqtt_tls, resolved.mqtt_users)
        };
        assert_eq!(with(""), (false, None));
        let made = Some(MqttUsers::Made("/d/mqtt-users".into()));
        assert_eq!(with("mqtt-address = '0.0.0.0:1883'"), (true, made));
        let given = "mqtt-address = '0.0.0.0:1883'\nmqtt-tls = false\nmqtt-users = '/u'";
        assert_eq!(with(given), (false, Some(MqttUsers::File("/u".into()))));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<Settings>("api-adress = '127.0.0.1:7001'").unwrap_err();
        assert!(error.to_string().contains("api-adress"), "{error}");
    }

    #[test]
    fn wrong_values_name_the_setting() {
        let with = |f: fn(&mut Settings)| {
            let mut settings = Settings::default();
            f(&mut settings);
            format!("{:#}", settings.resolve().unwrap_err())
        };
        assert!(with(|s| s.pod_cidr = Some("10.0.0.0".into())).contains("pod-cidr"));
        assert!(with(|s| s.cluster_cidr = Some("10.0.0.0/16".into())).contains("cluster-cidr"));
        assert!(with(|s| s.service_cidr = Some("10.0.0.0".into())).contains("service-cidr"));
        assert!(with(|s| s.bridge = Some("a bridge".into())).contains("bridge"));
        assert!(with(|s| s.audit_log = Some("-".into())).contains("audit-policy"));
        assert!(with(|s| s.readings_events = Some(0)).contains("readings-events"));
        assert!(with(|s| s.readings_age = Some("soon".into())).contains("readings-age"));
        assert!(with(|s| s.node_name = Some("Büro".into())).contains("node-name"));
    }
}
