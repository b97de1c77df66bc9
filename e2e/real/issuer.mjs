// A small OAuth issuer on oidc-provider: issuer.mjs PORT SECRET SECONDS
//
// Its tokens live SECONDS. It gives them to its client by client credentials, and in exchange for tokens that SECRET signs.

import { argv } from 'node:process';

import * as jose from 'jose';
import Provider, { errors } from 'oidc-provider';

const [port, secret, seconds] = [Number(argv[2]), new TextEncoder().encode(argv[3]), Number(argv[4])];
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const { privateKey } = await jose.generateKeyPair('ES256', { extractable: true });

// Exchanges and tokens so far, which GET /counts tells.
const counts = { exchanged: 0, issued: 0 };

function getResourceServerInfo(_, resource) {
  if (resource.includes('unknown')) throw new errors.InvalidTarget();
  const [scope, jwt] = ['tools', { sign: { alg: 'ES256' } }];
  return { scope, audience: resource, accessTokenTTL: seconds, accessTokenFormat: 'jwt', jwt };
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: 'gateway',
      client_secret: 'the-secret-of-the-client',
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['client_credentials', EXCHANGE],
      id_token_signed_response_alg: 'ES256',
      redirect_uris: [],
      response_types: [],
    },
  ],
  jwks: { keys: [{ ...(await jose.exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'issuer' }] },
  scopes: ['tools'],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo,
    },
  },
  ttl: { ClientCredentials: seconds },
});

async function exchange(ctx) {
  counts.exchanged += 1;
  const { client, params } = ctx.oidc;
  const subject = await jose.jwtVerify(params.subject_token, secret).then(({ payload }) => payload.sub, () => undefined);
  if (!subject) throw new errors.InvalidGrant('the subject token is not good');
  const info = await getResourceServerInfo(ctx, params.resource);
  const token = new provider.AccessToken({ accountId: subject, client, grantId: subject, gty: 'exchange', scope: info.scope });
  token.resourceServer = new provider.ResourceServer(params.resource, info);
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    token_type: 'Bearer',
    expires_in: token.expiration,
  };
}

const parameters = ['scope', 'audience', 'resource', 'requested_token_type'].concat(
  ['subject', 'actor'].flatMap((who) => [`${who}_token`, `${who}_token_type`]),
);
provider.registerGrantType(EXCHANGE, exchange, parameters);
provider.on('client_credentials.issued', () => { counts.issued += 1; });
provider.use(async (ctx, next) => {
  if (ctx.path !== '/counts') return next();
  ctx.body = counts;
});
provider.listen(port, '127.0.0.1');
