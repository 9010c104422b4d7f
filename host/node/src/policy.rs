//! What this host lets pods have.

/// The node's own rules, beside those of the API. The default is what most machines want.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Whether `privileged: true` is carried out: such a container can do with the machine what
    /// this host can.
    pub privileged: bool,
}
