// Sends files with dcmjs-dimse over one Association: node store.cjs HOST PORT WINDOW FILE...
// Prints "STATUS SOP-INSTANCE-UID" for each response, status as four hex digits; exit status 1 unless all were 0000.
//
// With a WINDOW above 1 it proposes to have so many requests outstanding. The library invokes one request after the
// other for each call of sendRequests, so it is called as often as was granted, and the release is left to this script.
'use strict';

const { Client, requests, log } = require('dcmjs-dimse');

const [host, port, window, ...files] = process.argv.slice(2);
const asynchronous = Number(window) > 1;
const client = new Client();
let stored = 0;
let answered = 0;

log.setLevel(log.levels.ERROR);
for (const file of files) {
  const request = new requests.CStoreRequest(file);
  request.on('response', (response) => {
    const status = response.getStatus();
    stored += status === 0 ? 1 : 0;
    answered += 1;
    console.log(status.toString(16).toUpperCase().padStart(4, '0'), response.getAffectedSopInstanceUid());
    if (asynchronous && answered === files.length) {
      client.network.sendAssociationReleaseRequest();
    }
  });
  client.addRequest(request);
}
client.on('associationAccepted', (association) => {
  if (asynchronous) {
    client.network.removeAllListeners('done');
    setImmediate(() => {
      for (let invoked = 1; invoked < association.getMaxAsyncOpsInvoked(); invoked += 1) {
        client.network.sendRequests([]);
      }
    });
  }
});
client.on('networkError', (error) => console.error('network error:', error));
client.on('associationRejected', (result) => console.error('rejected:', JSON.stringify(result)));
client.on('closed', () => {
  process.exitCode = stored === files.length ? 0 : 1;
});
client.send(host, Number(port), 'DCMJS', 'DICOMD', {
  asyncOps: { maxAsyncOpsInvoked: Number(window), maxAsyncOpsPerformed: 1 },
});
