//! Who the controllers are to the API: each acts in its own name, with the rights that Kubernetes
//! gives to that name and no others, so that who wrote what is told by audit and by rights alone.
//!
//! The names are the service accounts in `kube-system` of Kubernetes' own controllers, to which the
//! standing roles `system:controller:NAME` are bound, and `system:kube-scheduler`. What the
//! controllers read together they read as `system:kube-controller-manager`.

use std::sync::Arc;

use kube::Client;

const AUTHENTICATED: &str = "system:authenticated";

type Of = dyn Fn(&str, &[&str]) -> Client + Send + Sync;

/// Makes the client of each controller. Cheap to clone.
#[derive(Clone)]
pub struct Clients(Arc<Of>);

impl Clients {
    /// `of` makes the client of a user with this name, who is in these groups.
    pub fn new(of: impl Fn(&str, &[&str]) -> Client + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// All controllers act as whoever this client is.
    pub fn one(client: Client) -> Self {
        Self::new(move |_, _| client.clone())
    }

    /// The client of the controller whose service account has this name.
    pub(crate) fn controller(&self, account: &str) -> Client {
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
            AUTHENTICATED,
        ];
        (self.0)(
            &format!("system:serviceaccount:kube-system:{account}"),
            &groups,
        )
    }

    pub(crate) fn scheduler(&self) -> Client {
        (self.0)("system:kube-scheduler", &[AUTHENTICATED])
    }

    /// To look at what belongs to no controller.
    pub(crate) fn reader(&self) -> Client {
        (self.0)("system:kube-controller-manager", &[AUTHENTICATED])
    }
}
