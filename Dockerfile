# The image holds one static binary and the certificate authorities: nothing else to update, nothing to run a shell with.
#
#   docker build -t portcullis .
#
# With a static binary that is there already, no base image is pulled (DIR holds portcullis-gateway and
# ca-certificates.crt); e2e/image-check does so:
#
#   docker build -t portcullis --build-context binaries=DIR .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Static glibc, because it brings name resolution and a fast memcpy; a target is named so that build scripts and macros,
# which must be dynamic, are not meant.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --locked --release --package portcullis-gateway --target "$target" \
    && install -D --target-directory=/out "target/$target/release/portcullis-gateway" \
    && install -m 644 /etc/ssl/certs/ca-certificates.crt /out/

FROM scratch AS binaries
COPY --from=build /out/ /

FROM scratch
COPY --from=binaries /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=binaries /portcullis-gateway /portcullis-gateway
# Numeric, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 5000
ENTRYPOINT ["/portcullis-gateway"]
