//! Keys that the servers of one database share, sealed: the database holds them for whoever can open
//! them, and knows nothing of what they are.
//!
//! They stand beside the log, because a server needs them before it can read that.

#[cfg(feature = "postgres")]
use sqlx::{ConnectOptions, Connection, PgConnection, Row as _, postgres::PgConnectOptions};

#[cfg(feature = "postgres")]
use super::postgres::{options, prepare, unusable};
use crate::OpenError;

/// What was put into a database last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedKeys {
    /// Grows by one each time.
    pub version: i64,
    pub sealed: Vec<u8>,
}

/// The keys in the database at a URL, if any were put there.
pub async fn shared_keys(url: &str) -> Result<Option<SharedKeys>, OpenError> {
    #[cfg(feature = "postgres")]
    {
        let (mut connection, options) = connect(url).await?;
        let failed = |error| unusable(&options, &error);
        let found = sqlx::query("SELECT version, sealed FROM eyot_keys")
            .fetch_optional(&mut connection)
            .await
            .map_err(failed)?;
        let _ = connection.close().await;
        let keys = found.map(|row| {
            Ok(SharedKeys {
                version: row.try_get(0)?,
                sealed: row.try_get(1)?,
            })
        });
        keys.transpose().map_err(failed)
    }
    #[cfg(not(feature = "postgres"))]
    {
        let _ = url;
        Err(OpenError::NoServers)
    }
}

/// Put keys there, unless somebody did since `known` was the version (0: there were none). Answers
/// whether that was done.
pub async fn share_keys(url: &str, known: i64, sealed: &[u8]) -> Result<bool, OpenError> {
    #[cfg(feature = "postgres")]
    {
        let (mut connection, options) = connect(url).await?;
        let sql = match known {
            0 => "INSERT INTO eyot_keys VALUES (TRUE, $1 + 1, $2) ON CONFLICT DO NOTHING",
            _ => "UPDATE eyot_keys SET version = $1 + 1, sealed = $2 WHERE version = $1",
        };
        let done = sqlx::query(sql)
            .bind(known)
            .bind(sealed)
            .execute(&mut connection)
            .await
            .map_err(|error| unusable(&options, &error))?;
        let _ = connection.close().await;
        Ok(done.rows_affected() == 1)
    }
    #[cfg(not(feature = "postgres"))]
    {
        let _ = (url, known, sealed);
        Err(OpenError::NoServers)
    }
}

#[cfg(feature = "postgres")]
async fn connect(url: &str) -> Result<(PgConnection, PgConnectOptions), OpenError> {
    let options = options(url)?;
    let connected = options.connect().await;
    let mut connection = connected.map_err(|error| unusable(&options, &error))?;
    prepare(&mut connection, &options).await?;
    Ok((connection, options))
}
