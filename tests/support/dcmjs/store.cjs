// Sends files with dcmjs-dimse over one Association: node store.cjs HOST PORT WINDOW [--each] FILE...
// With --each, one Association after the other has one file each.
// Prints "STATUS SOP-INSTANCE-UID" for each response, status as four hex digits; exit status 1 unless all were 0000.
//
// With a WINDOW above 1 it proposes to have so many requests outstanding. The library invokes one request after the
// other for each call of sendRequests, so it is called as often as was granted, and the release is left to this script.
'use strict';

const { Client, requests, log } = require('dcmjs-dimse');

const [host, port, window, ...files] = process.argv.slice(2);
const each = files[0] === '--each';
if (each) files.shift();
const groups = each ? files.map((file) => [file]) : [files];
const asynchronous = Number(window) > 1;
let stored = 0;

log.setLevel(log.levels.ERROR);
function send(group) {
  return new Promise((resolve) => {
    const client = new Client();
    let answered = 0;
    for (const file of group) {
      const request = new requests.CStoreRequest(file);
      request.on('response', (response) => {
        const status = response.getStatus();
        stored += status === 0 ? 1 : 0;
        answered += 1;
        console.log(status.toString(16).toUpperCase().padStart(4, '0'), response.getAffectedSopInstanceUid());
        if (asynchronous && answered === group.length) {
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
    client.on('closed', resolve);
    client.send(host, Number(port), 'DCMJS', 'DICOMD', {
      asyncOps: { maxAsyncOpsInvoked: Number(window), maxAsyncOpsPerformed: 1 },
    });
  });
}

(async () => {
  for (const group of groups) await send(group);
  process.exitCode = stored === files.length ? 0 : 1;
})();
