# The worker and the programs that it calls, and nothing else: no shell, no package manager, no perl.
#
#   docker build -t rna-backup .                                        clients of PostgreSQL 15 to 18, from its own repository
#   docker build -t rna-backup --build-arg POSTGRES_MAJORS=16 .         one client
#   docker build -t rna-backup --build-arg PROFILE=quick .              compiled in a third of the time, and slower at work
#   docker build -t rna-backup --build-arg PGDG= --build-arg POSTGRES_MAJORS=15 .   Debian's packages alone
#
# BuildKit and Docker's older builder both build this file. docs/decisions/0017 says why the image is made of single packages.

ARG DEBIAN=bookworm
ARG RUST=1.95
# The stage or image that holds /rna-backup. `make image-test` names an image with the binary of `make build`.
ARG PROGRAM=build

FROM rust:${RUST}-slim-${DEBIAN} AS toolchain
# make: for jemalloc's own build. The compiler and the linker are in the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

FROM toolchain AS build
# The profile of Cargo.toml: `release`, or `quick` for a first look, without the allocator that takes longest to compile.
ARG PROFILE=release
WORKDIR /src
# The dependencies, compiled for an empty program: this layer lasts until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates/archive/Cargo.toml crates/archive/
COPY crates/backup-model/Cargo.toml crates/backup-model/
COPY crates/base/Cargo.toml crates/base/
COPY crates/celery-redis/Cargo.toml crates/celery-redis/
COPY crates/stores/Cargo.toml crates/stores/
COPY crates/test-support/Cargo.toml crates/test-support/
RUN mkdir -p src tests crates/celery-redis/tests \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs tests/integration.rs crates/celery-redis/tests/integration.rs \
    && for crate in crates/*; do mkdir -p "${crate}/src" && touch "${crate}/src/lib.rs"; done \
    && cargo build --locked --profile "${PROFILE}" --package rna-backup --no-default-features --features "$(test "${PROFILE}" = release && echo default)" \
    && rm -r src
COPY schemas schemas
COPY crates crates
COPY src src
# Cargo compares times, and the sources may be older than the empty program.
RUN find src crates -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile "${PROFILE}" --package rna-backup --no-default-features --features "$(test "${PROFILE}" = release && echo default)" \
    && cp "target/${PROFILE}/rna-backup" /rna-backup

# hadolint ignore=DL3006
FROM ${PROGRAM} AS program

# The file system of the image, put together in /image.
FROM debian:${DEBIAN}-slim AS image
ARG DEBIAN
# PostgreSQL restores a dump best with the client of the server's own major version: the worker chooses among these.
ARG POSTGRES_MAJORS="15 16 17 18"
ARG PGDG=https://apt.postgresql.org/pub/repos/apt
WORKDIR /packages
# libpq5 is the library of all clients. The key of PostgreSQL's repository comes from a package that Debian signs.
# Versions are the newest of the distribution: a pinned version would keep its security holes.
# hadolint ignore=DL3008
RUN set -eu; \
    apt-get update; \
    apt-get install --yes --no-install-recommends ca-certificates; \
    if [ -n "${PGDG}" ]; then \
        apt-get download postgresql-common; \
        dpkg-deb --extract postgresql-common_*.deb key; \
        install -D --mode=0644 key/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc /etc/apt/keyrings/pgdg.asc; \
        rm -r key postgresql-common_*.deb; \
        echo "deb [signed-by=/etc/apt/keyrings/pgdg.asc] ${PGDG} ${DEBIAN}-pgdg main" >/etc/apt/sources.list.d/pgdg.list; \
        apt-get update; \
    fi; \
    apt-get install --yes --no-install-recommends libpq5; \
    for major in ${POSTGRES_MAJORS}; do apt-get download "postgresql-client-${major}"; done
COPY --from=program /rna-backup /image/usr/local/bin/rna-backup
WORKDIR /image
# The programs, the packages of the libraries that they load, and their entries for scanners in /var/lib/dpkg/status.d.
# hadolint ignore=DL3003,DL4006
RUN set -eu; \
    mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc/ssl/certs var/lib/dpkg/status.d; \
    for folder in bin sbin lib lib64; do ln -s "usr/${folder}" "${folder}"; done; \
    for package in /packages/postgresql-client-*.deb; do \
        dpkg-deb --fsys-tarfile "${package}" | tar --extract --wildcards \
            './usr/lib/postgresql/*/bin/pg_dump' './usr/lib/postgresql/*/bin/pg_restore' './usr/share/doc/*/copyright'; \
    done; \
    # A library lies in /usr/lib, and some packages still name it as /lib.
    find . -type f -perm -u+x -exec ldd {} + >/packages/libraries; \
    if grep 'not found' /packages/libraries; then exit 1; fi; \
    sed -n 's|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p' /packages/libraries | sort -u | while read -r library; do \
        dpkg-query --search "${library}" 2>/dev/null || dpkg-query --search "/usr${library}"; \
    done | grep -v '^diversion ' | cut -d ' ' -f 1 | sed 's/:$//' | sort -u >/packages/names; \
    cd /packages; \
    xargs apt-get download <names; \
    for package in *.deb; do \
        name=$(dpkg-deb --field "${package}" Package); \
        { dpkg-deb --field "${package}"; echo 'Status: install ok installed'; } >"/image/var/lib/dpkg/status.d/${name}"; \
        case "${name}" in \
            postgresql-client-*) ;; \
            *) dpkg-deb --fsys-tarfile "${package}" | tar --extract --directory=/image --keep-directory-symlink \
                   --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/lintian' ;; \
        esac; \
    done; \
    find /image/usr/share/doc -type f ! -name copyright -delete
# A user of the worker's own: Debian has a user and a group `backup` already. Any user can begin to write into a new, empty
# volume at /backups. There is no folder for a volume of the app's: Docker would give the owner of that folder to the volume.
RUN set -eu; \
    groupadd --gid 10001 rna-backup; \
    useradd --uid 10001 --gid rna-backup --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin rna-backup; \
    cp /etc/passwd /etc/group /etc/os-release /etc/debian_version etc/; \
    cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/; \
    dpkg-query --status ca-certificates >var/lib/dpkg/status.d/ca-certificates; \
    echo 'hosts: files dns' >etc/nsswitch.conf; \
    install --directory --mode=1777 backups tmp; \
    for program in usr/local/bin/rna-backup usr/lib/postgresql/*/bin/*; do chroot . "/${program}" --version; done

FROM scratch
COPY --from=image /image /
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rna-backup" \
      org.opencontainers.image.description="A Celery-compatible worker that backs up PostgreSQL, Weaviate and media, and restores them safely" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001:10001
WORKDIR /backups
ENV PATH=/usr/local/bin BACKUP_ROOT=/backups
EXPOSE 9188
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=6 CMD ["rna-backup", "healthcheck"]
ENTRYPOINT ["rna-backup"]
CMD ["worker"]
